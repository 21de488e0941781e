"""ACDC: the planted edges and no other at every threshold, equal to the one-by-one procedure, and its known weakness."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.find.circuits.acdc import acdc, survival
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.model.batch import Batch
from conceptlab.model.edge_run import edge_run
from conceptlab.model.metric import kl_from
from tests.model.tiny import decoder

from .planted_runs import model_of, prepared, true_edges, world

TAUS = (0.001, 0.01, 0.1, 1.0)


@cache
def pruned(name, corruption="key", metric=True, seed=5, **options):
    run, own = prepared(name, corruption, seed=seed)
    return acdc(run, TAUS, own if metric else None, **options)


@pytest.mark.parametrize("corruption", ["key", "query"])
@pytest.mark.parametrize("metric", [True, False])
def test_the_induction_circuit_is_kept_exactly_at_every_threshold(corruption, metric):
    for pruning in pruned("induction", corruption, metric, seed=31):
        circuit = pruning.circuit
        planted = np.array([edge in true_edges("induction", corruption) for edge in circuit.edge_names()])
        assert planted.sum() == len(true_edges("induction", corruption))
        assert planted.all() or pruning.threshold == 0.001  # random heads move 10 units of logits by thousandths
        assert (np.abs(circuit.weights[~planted]) < 0.01).all()
        settings = circuit.provenance.settings
        assert settings["faithfulness"] == pytest.approx(1.0, abs=0.01)
        assert max(settings["faithfulness_random"]) < 0.1
        assert (circuit.low[planted] > 1).all()  # far above every threshold on every resample


def test_an_or_keeps_one_branch_and_an_and_both():
    one = pruned("or")[2].circuit
    assert len(one) == 4 and set(one.edge_names()) < true_edges("or")
    other = pruned("or", order="earliest first")[2].circuit
    assert set(one.edge_names()) | set(other.edge_names()) == true_edges("or")  # the order decides which
    for pruning in pruned("and"):
        assert set(pruning.circuit.edge_names()) == true_edges("and")


def test_edges_that_work_against_the_task_stay_only_where_either_direction_counts():
    run, metric = prepared("ioi", "swapped")
    signed, absolute = (acdc(run, 0.1, metric, absolute=a)[0].circuit for a in (False, True))
    against = ("L2.H1", "logits")
    assert against not in signed.edge_names() and against in absolute.edge_names()
    assert signed.provenance.settings["faithfulness"] > 1.3
    assert absolute.provenance.settings["faithfulness"] == pytest.approx(1.0, abs=0.01)
    assert true_edges("ioi") <= set(absolute.edge_names())


def one_by_one(run, metric, threshold):
    """The published procedure, an edge at a time, with a full evaluation for each."""
    left = np.ones((1, run.shape.n_edges), dtype=bool)
    now = run.evaluate(left, metric).mean()
    for receiver in range(len(run.shape.receivers) - 1, -1, -1):
        start, n = int(run.shape.offsets[receiver]), int(run.shape.n_before[receiver])
        for edge in range(start + n - 1, start - 1, -1):
            left[0, edge] = False
            after = run.evaluate(left, metric).mean()
            if after - now < threshold:
                now = after
            else:
                left[0, edge] = True
    return np.flatnonzero(left[0])


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_chains_and_shortcuts_give_what_one_edge_at_a_time_gives(kind):
    ids = torch.randint(10, 90, (2, 4, 6), generator=torch.Generator().manual_seed(3)).tolist()
    clean, corrupted = (Batch(tuple(map(tuple, rows))) for rows in ids)
    run = edge_run(decoder(kind), clean, corrupted)
    metric = kl_from(run.model.logits(clean))
    scale = run.empty(metric).mean()
    taus = [scale * share for share in (0.002, 0.02, 0.1)]
    sizes = []
    for tau, pruning in zip(taus, acdc(run, taus, metric), strict=True):
        np.testing.assert_array_equal(np.sort(pruning.circuit.edge_numbers), one_by_one(run, metric, tau))
        trace = pruning.trace
        assert int(trace["kept"].sum()) == len(pruning.circuit)
        np.testing.assert_array_equal(trace["kept"].values, trace["worse"].values >= tau)
        sizes.append(len(pruning.circuit))
    assert run.shape.n_edges > sizes[0] > sizes[-1] > 0  # the test decides something


def test_survival_ranks_the_planted_edges_first():
    scores = survival(pruned("induction"))
    assert len(scores) == scores.shape.n_edges
    top = scores.top(3)
    assert set(top.edge_names()) == true_edges("induction") and (top.weights == 1.0).all()
    assert (np.sort(scores.weights)[:-3] <= 0.001).all()


def test_controls_fail():
    run, metric = prepared("induction")
    assert len(acdc(run, 1e9, metric)[0].circuit) == 0
    prompts = world("induction").prompts["clean"]
    same = edge_run(model_of("induction"), prompts, prompts)
    before = same.passes
    for pruning in acdc(same, TAUS):
        assert len(pruning.circuit) == 0 and pruning.trace.sizes["step"] == 0
    assert same.passes - before < 4 * run.n_rows  # nothing needed to be run
    for seed in (5, 6, 7):
        for name, corruption in (("induction", "key"), ("ioi", "swapped")):
            null, _ = prepared(name, corruption, null=True, seed=seed)
            assert all(len(pruning.circuit) == 0 for pruning in acdc(null, TAUS))


def test_a_prescreen_says_what_it_cost():
    run, metric = prepared("induction")
    ranked = exact_edges(run, metric)
    good, bad = ranked.top(12), ranked.select(np.argsort(np.abs(ranked.weights))[:12])
    found = acdc(run, 0.1, metric, candidates=good)[0].circuit
    assert set(found.edge_names()) == true_edges("induction")
    assert found.provenance.settings["faithfulness_candidates"] == pytest.approx(1.0, abs=0.01)
    lost = acdc(run, 0.1, metric, candidates=bad)[0].circuit
    assert len(lost) == 0 and abs(lost.provenance.settings["faithfulness_candidates"]) < 0.01


def test_wrong_input_is_one_clear_line():
    run, metric = prepared("induction")
    with pytest.raises(InputError, match="thresholds must be positive"):
        acdc(run, [0.1, -1.0], metric)
    with pytest.raises(InputError, match="order='random' is not known"):
        acdc(run, 0.1, metric, order="random")
