"""Capture: what comes back is what plain hooks see, at the asked positions of real tokens, and nothing stays on the model."""

import pytest
import torch

from conceptlab.errors import ModelError, SiteError
from conceptlab.model import Batch
from tests.model.tiny import TEXTS, decoder, other


def hooks_left(module: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_stream_equals_the_hidden_states_of_the_library_bitwise() -> None:
    model = decoder("llama")
    batch = model.encode(TEXTS[1])
    with torch.no_grad():
        plain = model.module(torch.tensor(batch.ids), output_hidden_states=True)
    acts = model.capture(TEXTS[1], ["embed", "resid_post", "final_norm", "logits"], positions="all")
    assert torch.equal(acts["embed"], plain.hidden_states[0][0])
    for layer in range(model.n_layers - 1):
        assert torch.equal(acts.at("resid_post", layer), plain.hidden_states[layer + 1][0])
    assert torch.equal(acts["final_norm"], plain.hidden_states[-1][0])
    assert torch.equal(acts["logits"], plain.logits[0])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "mixtral"])
def test_positions_select_real_tokens_only(kind: str) -> None:
    model = decoder(kind)
    everything = model.capture(TEXTS, "resid_post", positions="all")
    assert everything["resid_post"].shape == (15, model.n_layers, model.d_model)
    assert everything.row.tolist() == [0] * 3 + [1] * 7 + [2] * 5
    last = model.capture(TEXTS, "resid_post")
    ends = torch.tensor([2, 9, 14])
    assert torch.equal(last["resid_post"], everything["resid_post"][ends])
    some = model.capture(TEXTS, "resid_post", positions=[[0], [3, -1], [2]])
    assert torch.equal(some["resid_post"], everything["resid_post"][torch.tensor([0, 6, 9, 12])])


def test_results_come_back_in_the_order_of_the_texts_whatever_the_batches() -> None:
    model = decoder("gpt2")
    whole = model.capture(TEXTS, "z", positions="all", max_tokens=10**6)["z"]
    pieces = model.capture(TEXTS, "z", positions="all", max_tokens=1)["z"]
    assert torch.allclose(whole, pieces, rtol=1e-5, atol=1e-6)


def test_patterns_are_rows_of_probabilities_over_real_tokens() -> None:
    model = decoder("gpt2")
    for side in ("right", "left"):
        acts = model.capture(TEXTS, "pattern", positions="all", padding_side=side)
        pattern = acts["pattern"]
        assert torch.allclose(pattern.sum(-1), torch.ones_like(pattern.sum(-1)), atol=1e-5)
        for token, (row, position) in enumerate(zip(acts.row, acts.position, strict=True)):
            assert (
                float(pattern[token, ..., position + 1 :].abs().max() if position + 1 < pattern.shape[-1] else 0) == 0
            )
            assert row in (0, 1, 2)


def test_what_nobody_asked_for_is_not_run() -> None:
    model, ran = decoder("llama"), []
    handles = [b.module.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(model.stack.blocks)]
    handles.append(model.stack.unembed.register_forward_hook(lambda *_: ran.append("unembed")))
    try:
        model.capture(TEXTS[0], "resid_post", layers=[0])
        assert ran == [0]
    finally:
        for handle in handles:
            handle.remove()


def test_nothing_stays_on_the_model_also_after_an_error() -> None:
    model = decoder("llama")
    before, weights = hooks_left(model.module), {n: p.clone() for n, p in model.module.named_parameters()}
    model.capture(TEXTS, ["pattern", "q", "resid_mid"], positions="all")
    with pytest.raises(SiteError):
        model.capture(TEXTS, "resid_post", positions=[[99], [0], [0]])
    with pytest.raises(RuntimeError, match="boom"), model.edited():
        raise RuntimeError("boom")
    assert hooks_left(model.module) == before
    assert all(torch.equal(p, weights[n]) for n, p in model.module.named_parameters())


def test_gradients_flow_when_asked() -> None:
    model = decoder("llama")
    acts = model.capture(TEXTS[0], ["resid_post", "logits"], positions="all", keep_graph=True)
    acts["logits"][-1, 12].backward()
    assert model.module.model.layers[0].mlp.down_proj.weight.grad.abs().sum() > 0
    model.module.zero_grad()
    assert not model.capture(TEXTS[0], "logits")["logits"].requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.capture("w1", "resid_past"), "no site is called 'resid_past'"),
        (lambda m: m.capture("w1", "z", layers=[9]), "layers 0 to"),
        (lambda m: m.capture("w1", "router"), "no experts"),
        (lambda m: m.capture(["w1 w2", ""], "z"), "row 1: the text has no tokens"),
        (
            lambda m: m._checked(Batch(((5000,),))),
            "outside the vocabulary",
        ),
        (lambda m: m.encode(" ".join(["w1"] * 5000)), "longer than the context"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, message: str) -> None:
    with pytest.raises((SiteError, ModelError), match=message) as caught:
        call(decoder("llama"))
    assert "\n" not in str(caught.value)


def test_a_parallel_block_has_no_middle_and_says_so() -> None:
    with pytest.raises(SiteError, match="parallel"):
        decoder("gpt_neox").capture(TEXTS, "resid_mid")


def test_an_encoder_is_read_and_its_padding_does_not_matter() -> None:
    model = other("bert")
    together = model.capture(TEXTS, "resid_post", positions="all")["resid_post"]
    alone = torch.cat([model.capture(t, "resid_post", positions="all")["resid_post"] for t in TEXTS])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert not model.has_logits
