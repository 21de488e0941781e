"""Overlap of two circuits: how many nodes and edges they share, beside random circuits of equal size.

For nodes (heads and MLPs; embed and logits are in every circuit and do not count) and for edges: Jaccard |A and B| / |A or B|, both
containments, and the weighted form sum min / sum max. Source: Merullo, Eickhoff and Pavlick 2024, Circuit Component Reuse Across
Tasks in Transformer Language Models (ICLR 2024), which compares heads by containment.
Departures: weights are divided by their sum first, so that circuits of metrics with other units can be compared; a node weighs
the sum of |weight| of the edges that leave it.
The control keeps the first circuit and puts a random one in the second's place, with as many nodes in each layer, as many edges
into each layer, and the second's weights in random order. Cost: no model passes; 1,000 draws of 1,000 edges take about 0.4 s.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from conceptlab.errors import ResultError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.results import Circuit, Provenance, Scores

CARD = {
    "name": "circuit overlap",
    "paper": "Merullo et al. 2024, Circuit Component Reuse Across Tasks in Transformer Language Models",
    "tags": ["circuits", "overlap"],
    "takes": "two circuits of one graph",
    "returns": "Scores",
    "cost": "no model passes",
}

STATISTICS = ("jaccard", "first_in_second", "second_in_first", "weighted")


@dataclass(frozen=True)
class _Parts:
    """The members [member] of one circuit among `total` things, with weights [member] that sum to 1 (NaN without weights)."""

    members: np.ndarray
    weights: np.ndarray
    total: int

    def dense(self) -> np.ndarray:
        """The weight [thing] of each thing, 0 for those outside."""
        out = np.zeros(self.total)
        out[self.members] = self.weights
        return out


def circuit_overlap(first: Circuit, second: Circuit, *, n_draws: int = 1000, seed: int = 0) -> Scores:
    """`score` [what, statistic], what = nodes or edges, beside `control` (mean over random circuits), with p and q of the table.

    `control_low` and `control_high` are the 2.5 and 97.5 % points of the draws; p is one-sided (more overlap than random circuits
    have). By `what`: `n_first`, `n_second`, `n_shared`, and `p_hypergeometric` of sharing so many when members are drawn from the
    whole graph, layers ignored. `weighted` is NaN where a circuit has no weights but 0 (said in the warnings). Raises ResultError
    for circuits of different graphs and for an empty one.
    """
    _check(first, second)
    nodes, edges = (_nodes(first), _nodes(second)), (_edges(first), _edges(second))
    draws = {
        "nodes": _random_nodes(second, n_draws, seed),
        "edges": map(_edges, random_circuits(second, n_draws, seed=seed)),
    }
    columns: dict[str, list[np.ndarray]] = {}
    for what, (a, b) in {"nodes": nodes, "edges": edges}.items():
        for name, values in _beside_random(a, b, np.array([_statistics(a, c) for c in draws[what]])).items():
            columns.setdefault(name, []).append(values)
    data = xr.Dataset(
        {name: (("what", "statistic")[: values[0].ndim + 1], np.stack(values)) for name, values in columns.items()},
        coords={"what": ["nodes", "edges"], "statistic": list(STATISTICS)},
    )
    p = data["p"].values
    tested, q = np.isfinite(p), np.full(p.shape, np.nan)
    q[tested] = q_values(p[tested])
    warnings = () if tested.all() else ("a circuit has no weights but 0: weighted overlap is not defined",)
    provenance = Provenance(
        "circuit overlap", min(first.provenance.n, second.provenance.n), seed, model=first.provenance.model,
        settings={"n_draws": n_draws}, warnings=warnings,
    )  # fmt: skip
    return Scores(data.assign(q=(("what", "statistic"), q)), provenance)


def _check(first: Circuit, second: Circuit) -> None:
    if first.shape != second.shape:
        raise ResultError(f"the circuits belong to different graphs: {first.shape} and {second.shape}")
    for name, circuit in (("first", first), ("second", second)):
        if not _nodes(circuit).members.size:
            raise ResultError(
                f"the {name} circuit has no head and no MLP in its {len(circuit)} edges; there is nothing to share"
            )


def _beside_random(first: _Parts, second: _Parts, random: np.ndarray) -> dict[str, np.ndarray]:
    """Every column of one row of the table; `random` [draw, statistic]."""
    from scipy.stats import hypergeom

    score = _statistics(first, second)
    low, high = np.quantile(random, [0.025, 0.975], axis=0)
    p = np.where(np.isfinite(score), permutation_p(score, random), np.nan)
    shared, n_first, n_second = (
        len(np.intersect1d(first.members, second.members)),
        len(first.members),
        len(second.members),
    )
    exact = hypergeom.sf(shared - 1, first.total, n_first, n_second)
    counts = {"n_first": n_first, "n_second": n_second, "n_shared": shared, "p_hypergeometric": float(exact)}
    return {
        "score": score, "control": random.mean(0), "control_low": low, "control_high": high, "p": p,
        **{name: np.asarray(value) for name, value in counts.items()},
    }  # fmt: skip


def _statistics(first: _Parts, second: _Parts) -> np.ndarray:
    """[statistic]; the sum of maxima is both sums less the sum of minima."""
    inside = np.zeros(first.total, dtype=bool)
    inside[first.members] = True
    shared, a, b = inside[second.members].sum(), len(first.members), len(second.members)
    least = np.minimum(first.dense()[second.members], second.weights).sum()
    weighted = least / (first.weights.sum() + second.weights.sum() - least)
    return np.array([shared / (a + b - shared), shared / a, shared / b, weighted])


def _edges(circuit: Circuit) -> _Parts:
    return _Parts(circuit.edge_numbers, _shares(np.abs(circuit.weights)), circuit.shape.n_edges)


def _nodes(circuit: Circuit) -> _Parts:
    members = np.flatnonzero(circuit.node_mask()[1:])  # without embed
    leaving = np.bincount(circuit.source, np.abs(circuit.weights), minlength=len(circuit.shape.senders))[1:]
    return _Parts(members, _shares(leaving[members]), len(leaving))


def _shares(weights: np.ndarray) -> np.ndarray:
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(weights), np.nan)


def _random_nodes(circuit: Circuit, n: int, seed: int) -> Iterator[_Parts]:
    """Node sets with as many nodes in each layer, the weights going with the nodes."""
    rng, dense, mask = np.random.default_rng(seed), _nodes(circuit).dense(), circuit.node_mask()[1:]
    layer = circuit.shape.senders.layer[1:]
    for _ in range(n):
        order = np.lexsort((rng.random(len(layer)), layer))  # layers lie in order, so this shuffles inside each
        members = np.flatnonzero(mask[order])
        yield _Parts(members, dense[order][members], len(layer))
