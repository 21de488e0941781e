"""Overlap of circuits: exact on sets counted by hand, a shared core is found, independent circuits are not."""

import numpy as np
import pytest

from conceptlab.errors import ResultError
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.measure.circuits.overlap import circuit_overlap
from conceptlab.results import Circuit, GraphShape, Provenance, all_edges

PROVENANCE = Provenance("by hand", n=8, seed=0)
SHAPE = GraphShape(3, 4)
FIRST = [
    ("embed", "L0.H0.v", 2), ("L0.H0", "L1.H0.v", -2), ("L1.H0", "L2.H0.q", 2), ("L1.H0", "L2.H1.q", 2),
    ("L2.H0", "logits", 1), ("L2.H1", "logits", -1),
]  # fmt: skip
SECOND = [("embed", "L2.H0.v", 1), ("embed", "L2.H1.v", 1), ("L2.H0", "logits", 3), ("L2.H1", "logits", -5)]


def circuit(edges, shape=SHAPE):
    return Circuit.from_edges(shape, edges, PROVENANCE)


def cell(scores, what, statistic, column="score"):
    return float(scores.data[column].sel(what=what, statistic=statistic))


def test_sets_counted_by_hand():
    scores = circuit_overlap(circuit(FIRST), circuit(SECOND), n_draws=50)
    nodes = {s: cell(scores, "nodes", s) for s in ("jaccard", "first_in_second", "second_in_first")}
    assert nodes == {"jaccard": 0.5, "first_in_second": 0.5, "second_in_first": 1.0}
    assert cell(scores, "edges", "jaccard") == pytest.approx(2 / 8)
    assert cell(scores, "edges", "first_in_second") == pytest.approx(2 / 6)
    assert cell(scores, "edges", "second_in_first") == pytest.approx(2 / 4)
    # shares of the two edges: 0.1 and 0.1 of the first, 0.3 and 0.5 of the second
    assert cell(scores, "edges", "weighted") == pytest.approx(0.2 / 1.8)
    # of the nodes, by the edges that leave them: first .25 .5 .125 .125, second 3/8 and 5/8
    assert cell(scores, "nodes", "weighted") == pytest.approx(0.25 / 1.75)
    assert scores["n_shared"].values.tolist() == [2, 2]
    assert scores["n_first"].values.tolist() == [4, 6] and scores["n_second"].values.tolist() == [2, 4]
    # two members of two among the four of fifteen
    assert float(scores["p_hypergeometric"][0]) == pytest.approx(4 * 3 / (15 * 14))


def test_a_circuit_overlaps_wholly_with_itself_whatever_its_unit():
    a = circuit(FIRST)
    twice = Circuit(SHAPE, a.source, a.target, -2 * a.weights, PROVENANCE)
    scores = circuit_overlap(a, twice, n_draws=200)
    np.testing.assert_allclose(scores["score"].values, 1.0)
    assert (scores["p"].values <= 0.05).all() and (scores["q"].values <= 0.05).all()
    assert (scores["control"].values < 0.5).all()


def test_the_control_is_the_mean_of_random_circuits():
    """Into layer 2 go 2 of the 132 possible edges, into the logits 2 of 16; the expected number in common is a sum."""
    a, b = circuit(FIRST), circuit(SECOND)
    scores = circuit_overlap(a, b, n_draws=2000)
    expected = 2 * 2 / (12 * 11 + 15) + 2 * 2 / 16
    assert cell(scores, "edges", "second_in_first", "control") * 4 == pytest.approx(expected, abs=0.04)
    nodes = 2 * 2 / 5  # two of the five nodes of layer 2, twice
    assert cell(scores, "nodes", "second_in_first", "control") * 2 == pytest.approx(nodes, abs=0.04)


def scored(seed, shape):
    rng = np.random.default_rng(seed)
    source, target = all_edges(shape)
    return Circuit(shape, source, target, rng.normal(size=len(source)), PROVENANCE)


def test_a_shared_core_is_found_and_independent_circuits_are_not():
    shape, low = GraphShape(4, 4), []
    for seed in range(60):
        a, b = scored(seed, shape).top(60), scored(1000 + seed, shape).top(60)
        low.append(circuit_overlap(a, b, n_draws=39, seed=seed)["p"].values[1])
    share = (np.array(low) <= 0.05).mean(0)
    assert (share <= 0.14).all(), share  # 0.05 expected; three standard errors of 60 pairs above it
    core, other = scored(0, shape), scored(1, shape)
    mixed = Circuit(shape, core.source, core.target, core.weights + other.weights, PROVENANCE)
    found = circuit_overlap(core.top(60), mixed.top(60), n_draws=199)
    assert (found["q"].values[1] <= 0.05).all()
    assert cell(found, "edges", "jaccard") > cell(found, "edges", "jaccard", "control_high")


@pytest.mark.parametrize("shape", [SHAPE, GraphShape(3, 4, 2, True, (1,))])
def test_random_circuits_have_as_many_edges_into_each_layer(shape):
    real = scored(5, shape).top(40)
    draws = list(random_circuits(real, 300, seed=1))
    layer = shape.receivers.layer
    for draw in draws:
        np.testing.assert_array_equal(np.bincount(layer[draw.target]), np.bincount(layer[real.target]))
        assert sorted(draw.weights) == sorted(real.weights)
    again = list(random_circuits(real, 300, seed=1))
    assert draws[7] == again[7] and draws[7] != draws[8] and draws[7] != next(random_circuits(real, 1, seed=2))
    # within a layer every edge is as likely: counts over the edges into the logits
    into = np.concatenate([draw.source[draw.target == len(shape.receivers) - 1] for draw in draws])
    counts = np.bincount(into, minlength=len(shape.senders))
    assert counts.std() < 2 * counts.mean() ** 0.5 + 1


def test_random_circuits_can_carry_their_own_scores():
    whole = scored(2, SHAPE)
    weight = dict(zip(whole.edge_names(), whole.weights, strict=True))
    for draw in random_circuits(whole.top(20), 5, scored=whole):
        assert [weight[edge] for edge in draw.edge_names()] == draw.weights.tolist()
    with pytest.raises(ResultError, match="scored holds 20 edges"):
        next(random_circuits(whole, 1, scored=whole.top(20)))


def test_wrong_input_is_one_clear_line():
    with pytest.raises(ResultError, match="different graphs"):
        circuit_overlap(circuit(FIRST), circuit([], GraphShape(2, 4)))
    with pytest.raises(ResultError, match="the second circuit has no head and no MLP in its 1 edges"):
        circuit_overlap(circuit(FIRST), circuit([("embed", "logits")]))
    weightless = circuit([(a, b, 0.0) for a, b, _ in SECOND])
    scores = circuit_overlap(circuit(FIRST), weightless, n_draws=20)
    assert np.isnan(cell(scores, "edges", "weighted")) and np.isnan(cell(scores, "edges", "weighted", "p"))
    assert scores.provenance.warnings and np.isfinite(cell(scores, "edges", "jaccard", "q"))
