"""Random circuits of equal size: what every statement about a circuit stands beside.

A random circuit has as many edges into every layer as the given one (receivers of that layer; logits are a layer of their own),
drawn without repetition from all edges into that layer that the model has.
"""

from collections.abc import Iterator

import numpy as np

from conceptlab.errors import ResultError
from conceptlab.results import Circuit


def random_circuits(circuit: Circuit, n: int, *, seed: int = 0, scored: Circuit | None = None) -> Iterator[Circuit]:
    """`n` random circuits with as many edges into each layer as `circuit`, drawn one by one.

    Their edges carry their own weights where `scored` gives them (a Circuit of the same graph that holds every edge, as a finder
    scores them), else the weights of `circuit` in random order. Raises ResultError when `scored` lacks edges or has another graph.
    """
    shape, rng = circuit.shape, np.random.default_rng(seed)
    known = None if scored is None else _every_weight(scored, circuit)
    layer = shape.receivers.layer
    first = np.concatenate([[0], np.cumsum(np.bincount(layer, weights=shape.n_before).astype(np.int64))])
    wanted = np.bincount(layer[circuit.target], minlength=len(first) - 1)
    for _ in range(n):
        numbers = np.concatenate([_drawn(rng, first[i], first[i + 1], wanted[i]) for i in range(len(wanted))])
        weights = rng.permutation(circuit.weights) if known is None else known[numbers]
        yield Circuit(shape, *shape.edges_of(numbers), weights, circuit.provenance, circuit.metric)


def _drawn(rng: np.random.Generator, start: int, stop: int, n: int) -> np.ndarray:
    return np.sort(rng.choice(stop - start, n, replace=False, shuffle=False)) + start


def _every_weight(scored: Circuit, circuit: Circuit) -> np.ndarray:
    """The weight [edge number] of every edge of the graph."""
    if scored.shape != circuit.shape or len(scored) != scored.shape.n_edges:
        raise ResultError(
            f"scored holds {len(scored):,} edges of a graph with {scored.shape.n_edges:,}; give a score for every edge of the "
            f"circuit's own graph ({circuit.shape.n_edges:,})"
        )
    weights = np.empty(len(scored))
    weights[scored.edge_numbers] = scored.weights
    return weights
