"""Circuits on the graph: all edges are the clean run, none the corrupted one, every other set what a plain recursion gives."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.model.batch import Batch
from conceptlab.model.edge_run import EdgeRun, edge_run
from conceptlab.model.edge_state import Moved
from conceptlab.model.metric import Metric, along, kl_from, logit, logit_diff
from conceptlab.results import Circuit, Provenance

from .plain_edges import Plain, patched_logits
from .tiny import decoder, other

KINDS = ("gpt2", "llama", "gpt_neox", "qwen3", "olmo2", "gemma2", "mixtral")
DIFF = Metric("difference", lambda logits, _: logits[..., 7] - logits[..., 13])


@cache
def rows(n: int = 3, n_pos: int = 7, seed: int = 0) -> tuple[Batch, Batch]:
    ids = torch.randint(10, 90, (2, n, n_pos), generator=torch.Generator().manual_seed(seed)).tolist()
    clean, corrupted = (Batch(tuple(map(tuple, batch))) for batch in ids)
    return clean, corrupted


@cache
def prepared(kind: str) -> EdgeRun:
    return edge_run(decoder(kind), *rows())


def random_masks(run: EdgeRun, seed: int = 0) -> np.ndarray:
    share = np.array([0.02, 0.1, 0.5, 0.9, 0.98, 0.99])
    return np.random.default_rng(seed).random((len(share), run.shape.n_edges)) < share[:, None]


@pytest.mark.parametrize("kind", KINDS)
def test_all_edges_are_the_clean_run_and_none_the_corrupted_one(kind):
    run, masks = prepared(kind), np.stack([np.ones(prepared(kind).shape.n_edges, dtype=bool)] * 2)
    masks[1] = False
    plain = [DIFF.of(run.model.logits(batch), torch.arange(3)).double().numpy() for batch in rows()]
    np.testing.assert_allclose(run.evaluate(masks, DIFF), plain, rtol=1e-5, atol=1e-5)
    fresh = run._pass(run._rows(0), masks, 0, None, DIFF, fresh=True).numpy()  # every node computed again
    np.testing.assert_allclose(fresh, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_computed_would_have_been_the_same(kind):
    run = prepared(kind)
    masks = random_masks(run)
    fresh = run._pass(run._rows(0), masks, 0, None, DIFF, fresh=True).numpy()
    np.testing.assert_allclose(run.evaluate(masks, DIFF), fresh, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_circuits_are_what_a_recursion_over_nodes_gives(kind):
    run = prepared(kind)
    clean, corrupted = rows()
    masks = random_masks(run, seed=1)
    found = run.evaluate(masks, DIFF)
    senders, receivers = run.shape.senders.names, run.shape.receivers.names
    for row in range(3):
        plain = Plain(run.model.module, list(clean.ids[row]), list(corrupted.ids[row]))
        for mask, value in zip(masks, found[:, row], strict=True):
            source, target = run.shape.edges_of(np.flatnonzero(mask))
            logits, _ = plain.run({(senders[s], receivers[t]) for s, t in zip(source, target, strict=True)})
            assert value == pytest.approx(float(DIFF.of(logits[-1], None)), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("sender", ["embed", "L0.mlp"])
def test_single_edges_are_what_plain_hooks_give(kind, sender):
    run, model = prepared(kind), decoder(kind)
    site = "embed" if sender == "embed" else "mlp_out"
    clean, corrupted = (
        model.capture(batch, site, layers=[0], positions="all")[site].reshape(3, 7, -1) for batch in rows()
    )
    ids = torch.tensor(rows()[0].ids)
    for receiver in ("L1.H0.q", "L1.H1.k", "L1.H0.v", "L1.mlp"):
        mask = np.ones((1, run.shape.n_edges), dtype=bool)
        mask[0, run.shape.offsets[run.shape.receiver(receiver)] + run.shape.sender(sender)] = False
        plain = patched_logits(model.module, kind, ids, receiver, corrupted - clean)[:, -1]
        want = DIFF.of(plain, None).double().numpy()
        np.testing.assert_allclose(run.evaluate(mask, DIFF)[0], want, rtol=1e-5, atol=1e-5)
        assert np.abs(want - run.whole(DIFF)).max() > 1e-4  # an edge that changes nothing would show nothing


def test_a_head_into_the_logits_takes_its_own_share_away():
    run, model = prepared("gpt2"), decoder("gpt2")
    z = [model.capture(batch, "z", layers=[1], positions="last").at("z", 1)[:, 2] for batch in rows()]
    width = z[0].shape[-1]
    change = (z[1] - z[0]) @ model.tap("z", 1).module.weight[2 * width : 3 * width]
    final = model.capture(rows()[0], "resid_post", layers=[1], positions="last").at("resid_post", 1)
    mask = np.ones((1, run.shape.n_edges), dtype=bool)
    mask[0, run.shape.offsets[-1] + run.shape.sender("L1.H2")] = False
    want = DIFF.of(model.lens(final + change), None).double().detach().numpy()
    np.testing.assert_allclose(run.evaluate(mask, DIFF)[0], want, rtol=1e-5, atol=1e-5)


def test_budget_and_length_groups_change_nothing():
    model = decoder("llama")
    batches = [Batch(rows(3, 7)[i].ids + rows(2, 5, 1)[i].ids) for i in (0, 1)]
    wide = edge_run(model, *batches)
    narrow = edge_run(model, *batches, budget_bytes=300_000)
    assert len(narrow.groups) > len(wide.groups) == 2
    masks = random_masks(wide)
    moved = Moved(np.zeros(len(masks), dtype=int), np.full(len(masks), 5), np.arange(len(masks)), seed=3)
    np.testing.assert_allclose(wide.evaluate(masks, DIFF), narrow.evaluate(masks, DIFF), rtol=1e-5, atol=1e-6)
    a, b = (run.evaluate(masks, DIFF, moved=moved) for run in (wide, narrow))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.abs(a[-1] - wide.evaluate(masks, DIFF)[-1]).max() > 1e-5


def test_only_what_an_edge_can_reach_is_run():
    run = edge_run(decoder("gpt2"), *rows())
    masks = np.ones((2, run.shape.n_edges), dtype=bool)
    masks[0, run.shape.offsets[-1] + 2] = False  # into the logits
    masks[1, run.shape.offsets[run.shape.receiver("L1.mlp")] + 2] = False
    run.evaluate(masks[1:], DIFF)  # the first call tries what can be left out
    before = run.passes
    run.whole(DIFF), run.empty(DIFF), run.evaluate(masks[:1], DIFF)
    assert run.passes == before
    run.evaluate(masks[1:], DIFF)
    assert run.passes == before + 3 / 4  # half of one of two blocks, three rows


def test_with_zero_ablation_nothing_but_biases_is_left():
    run = edge_run(decoder("llama"), *rows(), ablation="zero")  # Llama has no biases: the stream is 0
    stream = torch.zeros(3, run.model.d_model)
    want = DIFF.of(run.model.lens(stream), None).detach().numpy()
    np.testing.assert_allclose(run.empty(DIFF), want, atol=1e-3)  # the norm enlarges what rounding leaves of 0
    plain = DIFF.of(run.model.logits(rows()[0]), None).numpy()
    np.testing.assert_allclose(run.whole(DIFF), plain, rtol=1e-5)
    fresh = run._pass(run._rows(0), random_masks(run), 0, None, DIFF, fresh=True).numpy()
    np.testing.assert_allclose(run.evaluate(random_masks(run), DIFF), fresh, rtol=1e-5, atol=1e-5)


def test_metrics_see_their_own_rows():
    run = prepared("gpt2")
    masks = random_masks(run)
    both = logit_diff([11, 12, 13], [21, 22, 23])
    first, second = logit([11, 12, 13]), logit([21, 22, 23])
    np.testing.assert_allclose(
        run.evaluate(masks, both), run.evaluate(masks, first) - run.evaluate(masks, second), atol=1e-5
    )
    kl = kl_from(run.model.logits(rows()[0]))
    assert np.abs(run.whole(kl)).max() < 1e-6 and run.empty(kl).min() > 1e-4


def test_what_is_asked_wrongly_is_one_clear_line():
    run, model = prepared("gpt2"), decoder("gpt2")
    clean, corrupted = rows()
    with pytest.raises(InputError, match="row 0: the clean text has 7 tokens and the corrupted one 5"):
        edge_run(model, clean, rows(3, 5)[0])
    with pytest.raises(InputError, match="3 clean rows came with 2"):
        edge_run(model, clean, rows(2)[0])
    with pytest.raises(InputError, match="budget of 1 kB is too small"):
        edge_run(model, clean, corrupted, budget_bytes=1000)
    with pytest.raises(InputError, match="needs bool"):
        run.evaluate(np.ones((1, 4), dtype=bool), DIFF)
    with pytest.raises(InputError, match="metric of the logits"):
        run.whole(along("L1.resid_post", torch.ones(64)))
    with pytest.raises(InputError, match="for 2 rows"):
        run.whole(logit([1, 2]))
    with pytest.raises(InputError, match="reads position 9"):
        run.whole(Metric("m", lambda logits, _: logits[..., 0], position=9))
    with pytest.raises(InputError, match="is not a number in row 0"):
        run.whole(Metric("m", lambda logits, _: logits[..., 0] * torch.nan))
    with pytest.raises(InputError, match="belongs to"):
        run.mask(Circuit.from_edges(prepared("llama").shape, [("embed", "logits")], Provenance("t", 1, 0)))


@pytest.mark.parametrize(
    ("kind", "why"),
    [("mamba", "has no attention"), ("bloom", "bypasses"), ("qwen3_next", "no attention")],
)
def test_models_without_the_sites_say_which_is_missing(kind, why):
    with pytest.raises(SiteError, match=why):
        edge_run(decoder(kind), *rows())


def test_an_encoder_with_post_norms_says_so():
    with pytest.raises(SiteError):
        edge_run(other("bert"), *rows())


def test_pieces_that_do_not_add_up_are_a_named_error(monkeypatch):
    from conceptlab.model import edge_graph

    right = edge_graph._weights
    monkeypatch.setattr(edge_graph, "_weights", lambda made, n: right(made, n) * 1.01)
    with pytest.raises(SiteError, match="before block 1 is not the sum"):
        edge_run(decoder("llama"), *rows())


def test_hooks_are_gone_and_weights_untouched():
    model = decoder("gpt2")
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    prepared("gpt2").evaluate(random_masks(prepared("gpt2")), DIFF)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.module.modules())
    assert all("forward" not in m.__dict__ for m in model.module.modules())
    assert all(torch.equal(p, before[name]) for name, p in model.module.named_parameters())
