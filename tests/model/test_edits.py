"""Edits: each operation does what it says at its site, unit and position, composes, and is undone."""

import pytest
import torch

from conceptlab.errors import SiteError
from conceptlab.results import Edit, Site
from tests.model.tiny import TEXTS, decoder

KINDS = ["gpt2", "llama", "gemma2", "granite", "gpt_neox"]


def stream(model, **options):
    return model.capture(TEXTS, "resid_post", positions="all", **options)["resid_post"]


@pytest.mark.parametrize("kind", KINDS)
def test_adding_to_the_stream_equals_a_plain_hook(kind: str) -> None:
    model = decoder(kind)
    vector = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor(model.encode(TEXTS[1]).ids)

    def add(_module, _args, output):
        return (output[0] + 0.5 * vector, *output[1:]) if isinstance(output, tuple) else output + 0.5 * vector

    handle = model.stack.blocks[0].module.register_forward_hook(add)
    with torch.no_grad():
        plain = model.module(ids).logits
    handle.remove()
    with model.edited(Edit("L0.resid_post", "add", vector, strength=0.5)), torch.no_grad():
        assert torch.equal(model.module(ids).logits, plain)
        assert torch.equal(model.logits(TEXTS[1], positions="all")[None], plain)
    with torch.no_grad():
        assert not torch.equal(model.module(ids).logits, plain)


def test_positions_and_rows_are_respected_and_all_else_is_bitwise_untouched() -> None:
    model = decoder("llama")
    before = stream(model)
    values = torch.randn(3, model.d_model)
    with model.edited(Edit("L0.resid_post", "set", values[:, None].squeeze(1), positions="last")):
        after = stream(model)
    ends = torch.tensor([2, 9, 14])
    assert torch.equal(after[ends, 0], values)
    others = torch.ones(15, dtype=torch.bool)
    others[ends] = False
    assert torch.equal(after[others], before[others])


def test_heads_and_neurons_are_changed_one_by_one() -> None:
    model = decoder("gpt2")
    z = model.capture(TEXTS, "z", positions="all")["z"]
    with model.edited(Edit("L1.H0,2.z", "zero")):
        edited = model.capture(TEXTS, "z", positions="all")["z"]
    assert edited[:, 1, [0, 2]].abs().max() == 0
    assert torch.equal(edited[:, 1, [1, 3]], z[:, 1, [1, 3]])
    with model.edited(Edit("L1.N5.mlp_post@-1", "set", torch.tensor([7.0]))):
        post = model.capture(TEXTS, "mlp_post")["mlp_post"]
    assert torch.equal(post[:, 1, 5], torch.full((3,), 7.0))


def test_projecting_out_removes_exactly_the_subspace() -> None:
    model = decoder("llama")
    basis = torch.linalg.qr(torch.randn(model.d_model, 2))[0].T
    with model.edited(Edit("L1.resid_post", "project_out", basis)):
        after = stream(model)[:, 1]
    assert (after @ basis.T).abs().max() < 1e-4
    once = Edit("L1.resid_post", "project_out", basis)
    with model.edited(once, once):
        assert torch.allclose(stream(model)[:, 1], after, atol=1e-5)


def test_knocking_out_attention_moves_nothing_from_the_chosen_key() -> None:
    model = decoder("llama")
    n = len(model.encode(TEXTS[1]).ids[0])
    pattern = model.capture(TEXTS[1], "pattern", layers=[1], positions="all")["pattern"][:, 0].clone()
    pattern[..., 0] = 0
    with model.edited(Edit("L1.pattern", "set", pattern)):
        acts = model.capture(TEXTS[1], ["pattern", "v", "z"], layers=[1], positions="all")
    assert acts["pattern"][:, 0, :, 0].abs().max() == 0
    groups = acts["pattern"].shape[2] // acts["v"].shape[2]
    mixed = torch.einsum("qhk,khd->qhd", acts["pattern"][:, 0], acts["v"][:, 0].repeat_interleave(groups, 1))
    assert mixed.shape[0] == n
    assert torch.allclose(mixed, acts["z"][:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_writing_back_a_value_through_any_scale_changes_nothing(kind: str) -> None:
    model = decoder(kind)
    for site in ("attn_out", "mlp_out", "z", "q", "v", "mlp_post"):
        value = model.capture(TEXTS[1], site, layers=[1], positions="all")[site][:, 0]
        plain = model.logits(TEXTS[1], positions="all")
        with model.edited(Edit(Site(site, 1), "set", value)):
            assert torch.equal(model.logits(TEXTS[1], positions="all"), plain), site


def test_an_edit_carries_gradients_to_its_value() -> None:
    model = decoder("llama")
    vector = torch.zeros(model.d_model, requires_grad=True)
    with model.edited(Edit("L0.resid_post", "add", vector)):
        acts = model.capture(TEXTS[0], "logits", keep_graph=True)
        acts["logits"][0, 5].backward()
    assert vector.grad is not None
    assert vector.grad.abs().sum() > 0


def test_an_edit_is_undone_when_the_body_raises() -> None:
    model = decoder("llama")
    before = stream(model)
    with pytest.raises(KeyboardInterrupt), model.edited(Edit("L0.resid_post", "scale", strength=0.0)):
        raise KeyboardInterrupt
    assert torch.equal(stream(model), before)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: Edit("L0.H9.z", "zero"), "names unit 9"),
        (lambda d: Edit("L7.resid_post", "zero"), "layers 0 to"),
        (lambda d: Edit("L0.resid_post", "add", torch.zeros(d + 1)), "brings"),
        (lambda d: Edit("L0.resid_post", "add"), "needs a value"),
        (lambda d: Edit("L0.resid_post", "melt"), "is no edit"),
        (lambda d: Edit("L0..z", "zero"), "is not a site"),
    ],
)
def test_a_wrong_edit_is_refused_before_anything_runs(edit, message: str) -> None:
    model = decoder("llama")
    with pytest.raises(SiteError, match=message), model.edited(edit(model.d_model)):
        pytest.fail("the body must not run")


def test_an_edit_saves_and_loads_equal(tmp_path) -> None:
    edit = Edit("L1.H0,2.z@-1", "mean", torch.randn(2, 16), strength=2.0)
    edit.save(tmp_path)
    again = Edit.load(tmp_path)
    assert str(again) == str(edit)
    assert torch.equal(again.value, edit.value)
