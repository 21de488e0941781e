"""Precision, recall and the area under the curve against edges that are known, beside random circuits and shuffled scores."""

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.measure.circuits.recovery import circuit_recovery
from conceptlab.results import Circuit, GraphShape, Provenance, all_edges

SHAPE = GraphShape(3, 4)
TRUE = [("embed", "L0.H0.q"), ("L0.H0", "L1.H0.v"), ("L1.H0", "L2.H0.q"), ("L2.H0", "logits")]
BY_HAND = Provenance("by hand", n=8, seed=0)


def circuit(*edges):
    return Circuit.from_edges(SHAPE, [(*edge, 1.0) for edge in edges], BY_HAND)


def scored(strength):
    """A score for every edge: `strength` for the true ones, noise for the others."""
    source, target = all_edges(SHAPE)
    every = Circuit(SHAPE, source, target, np.random.default_rng(1).random(len(source)), BY_HAND)
    true = {edge: strength for edge in TRUE}
    weights = np.array([true.get(e, w) for e, w in zip(every.edge_names(), every.weights, strict=True)])
    return Circuit(SHAPE, source, target, weights, BY_HAND)


def test_the_true_circuit_is_found_whole_and_random_ones_hardly():
    found = circuit_recovery(circuit(*TRUE), TRUE, scored=scored(2.0))
    assert found["score"].values.tolist() == [1.0, 1.0, 1.0]
    assert (found["control"].values[:2] < 0.3).all() and found["control"].values[2] == pytest.approx(0.5, abs=0.1)
    assert (found["p"].values < 0.02).all()


def test_counts_are_those_of_a_plain_count():
    found = circuit_recovery(
        circuit(*TRUE[:3], ("embed", "L2.mlp"), ("embed", "L1.mlp")), TRUE, neutral=[("embed", "L1.mlp")]
    )
    assert found["score"].values[:2].tolist() == pytest.approx([3 / 4, 3 / 4])
    assert np.isnan(found["score"].values[2]) and found.data.attrs["n_hits"] == 3


def test_scores_that_know_nothing_are_as_good_as_shuffled_ones():
    source, target = all_edges(SHAPE)
    blind = Circuit(SHAPE, source, target, np.random.default_rng(3).random(len(source)), BY_HAND)
    found = circuit_recovery(circuit(*TRUE), TRUE, scored=blind)
    assert float(found["p"][2]) > 0.05


def test_nothing_found_and_nothing_true():
    found = circuit_recovery(Circuit.from_edges(SHAPE, [], BY_HAND), TRUE)
    assert np.isnan(float(found["score"][0])) and float(found["score"][1]) == 0.0
    with pytest.raises(InputError, match="truth names no edge"):
        circuit_recovery(circuit(*TRUE), [])
    with pytest.raises(InputError, match="give a score for every edge"):
        circuit_recovery(circuit(*TRUE), TRUE, scored=circuit(*TRUE))
