"""The shape of a circuit's graph in numbers, each beside the same number of random circuits of equal size.

Metrics are of the graph of nodes (embed, heads, MLPs, logits), where one arc joins two nodes whatever the number of edges between
them; an edge into a shared key or value reaches those of its heads that are in the circuit. Edges count where it is said. They are
defined as in networkx, against which the tests hold them; written over arrays here, because 200 random circuits are measured too:

    nodes, edges       how many; edges with queries, keys and values apart
    density            arcs / (nodes * (nodes - 1)), at most one half in a graph without cycles
    mean_degree, max_degree, max_in_centrality, max_out_centrality     degree centrality is the degree / (nodes - 1)
    longest_path       arcs on the longest way
    k_core             the largest k for which some nodes have k neighbours each among themselves
    clustering         mean share of a node's neighbours that are joined, directions ignored
    disjoint_paths     ways from embed to logits without a common edge: what must be cut to stop the circuit
    on_path            share of edges that lie on a way from embed to logits
    entropy            -sum p log p over edges in nats, p = |weight| / sum |weight|
    share_q ... share_logits    share of edges by what they enter

Source: How Do Large Language Models Learn Concepts During Continual Pre-Training? (density, centrality, cores of concept circuits).
Departures: its exact list of metrics is not published, and the control by random circuits is ours; random circuits are not pruned,
so on a pruned circuit `on_path` is 1 by construction. Metrics depend on the number of edges: compare circuits of equal size.
Cost: no model passes; 200 draws of 1,000 to 5,000 edges take about 3 s for 12 x 12 heads and 13 s for 32 x 32.
"""

import numpy as np
import xarray as xr

from conceptlab.errors import ResultError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.results import Circuit, Provenance, Scores
from conceptlab.results.graph import KINDS, on_path

CARD = {
    "name": "graph metrics of a circuit",
    "paper": "How Do Large Language Models Learn Concepts During Continual Pre-Training?",
    "tags": ["circuits", "graph"],
    "takes": "a circuit",
    "returns": "Scores",
    "cost": "no model passes",
}

SAME_WEIGHTS = (
    "random circuits carry the circuit's own weights in random order, so entropy has no control; give scored= for one"
)


def graph_metrics(circuit: Circuit, *, n_draws: int = 200, seed: int = 0, scored: Circuit | None = None) -> Scores:
    """`score` [metric] beside `control`, the mean over `n_draws` random circuits with as many edges into each layer.

    `control_low` and `control_high` are the 2.5 and 97.5 % points of the draws, p is two-sided, q over all metrics. With `scored`
    (every edge of the graph with its score) random edges carry their own scores. Raises ResultError for an empty circuit.
    """
    if not len(circuit):
        raise ResultError("the circuit has no edges, so its graph has no shape; lower the threshold or take more edges")
    measured = metrics_of(circuit)
    score = np.array(list(measured.values()))
    draws = random_circuits(circuit, n_draws, seed=seed, scored=scored)
    null = np.array([list(metrics_of(draw).values()) for draw in draws])
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    p = np.minimum(1.0, 2 * np.minimum(permutation_p(score, null), permutation_p(-score, -null)))
    p[~np.isfinite(score)] = np.nan
    q = np.full(p.shape, np.nan)
    q[np.isfinite(p)] = q_values(p[np.isfinite(p)])
    columns = {
        "score": score, "control": null.mean(0), "control_low": low, "control_high": high, "p": p, "q": q
    }  # fmt: skip
    data = xr.Dataset({name: ("metric", values) for name, values in columns.items()}, coords={"metric": list(measured)})
    at = circuit.provenance
    settings = {"n_draws": n_draws, "of": at.method}
    warnings = () if scored is not None else (SAME_WEIGHTS,)
    return Scores(data, Provenance("graph metrics", at.n, seed, model=at.model, settings=settings, warnings=warnings))


def metrics_of(circuit: Circuit) -> dict[str, float]:
    """Every metric of one circuit, without its control."""
    arcs = node_arcs(circuit)
    joined = arcs | arcs.T
    n, degree = len(arcs), joined.sum(1)
    most = max(n - 1, 1)
    kinds = circuit.shape.receivers.kind[circuit.target]
    return {
        "nodes": n,
        "edges": len(circuit),
        "density": arcs.sum() / (n * most),
        "mean_degree": degree.mean(),
        "max_degree": degree.max(),
        "max_in_centrality": arcs.sum(0).max() / most,
        "max_out_centrality": arcs.sum(1).max() / most,
        "longest_path": longest_path(arcs),
        "k_core": largest_core(joined),
        "clustering": clustering(joined),
        "disjoint_paths": disjoint_paths(circuit),
        "on_path": on_path(circuit.shape, circuit.source, circuit.target).mean(),
        "entropy": entropy(circuit.weights),
        **{f"share_{kind}": (kinds == kind).mean() for kind in KINDS},
    }


def node_arcs(circuit: Circuit) -> np.ndarray:
    """bool [node, node], from row to column, over the circuit's nodes in their order from below (logits last)."""
    shape, mask = circuit.shape, circuit.node_mask()
    receiver, sender = shape.serves
    kept = mask[sender]
    logits = len(shape.receivers) - 1
    reads, node = np.append(receiver[kept], logits), np.append(sender[kept], len(mask))  # sorted by receiver
    first, stop = (np.searchsorted(reads, circuit.target, side=side) for side in ("left", "right"))
    times = stop - first
    within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    arcs = np.zeros((len(mask) + 1, len(mask) + 1), dtype=bool)
    arcs[np.repeat(circuit.source, times), node[np.repeat(first, times) + within]] = True
    members = np.append(mask, (circuit.target == logits).any())
    return arcs[np.ix_(members, members)]


def longest_path(arcs: np.ndarray) -> int:
    """Arcs on the longest way; the order of nodes is already one from below."""
    length = np.zeros(len(arcs), dtype=int)
    for node in range(len(arcs)):
        length[arcs[node]] = np.maximum(length[arcs[node]], length[node] + 1)
    return int(length.max())


def largest_core(joined: np.ndarray) -> int:
    """The largest k whose core holds a node: nodes with fewer than k + 1 neighbours go, until none does; then the next k."""
    degree, alive, k = joined.sum(1), np.ones(len(joined), dtype=bool), 0
    while alive.any():
        weak = alive & (degree <= k)
        if not weak.any():
            k += 1
        alive &= ~weak
        degree = degree - joined[weak].sum(0)
    return k


def clustering(joined: np.ndarray) -> float:
    """Mean over nodes of the share of neighbours that are joined; 0 for a node with fewer than two."""
    matrix = joined.astype(np.float32)
    degree = matrix.sum(1)
    pairs = degree * (degree - 1)
    return float((((matrix @ matrix) * matrix).sum(1) / np.maximum(pairs, 1)).mean())


def disjoint_paths(circuit: Circuit) -> int:
    """The largest flow from embed to logits when every edge carries one; inside a head or an MLP nothing is limited."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    n_senders, (receiver, sender) = len(circuit.shape.senders), circuit.shape.serves
    rows = np.concatenate([circuit.source, n_senders + receiver])
    columns = np.concatenate([n_senders + circuit.target, sender])
    capacity = np.concatenate([np.ones(len(circuit)), np.full(len(receiver), len(circuit))]).astype(np.int32)
    n = n_senders + len(circuit.shape.receivers)
    graph = coo_array((capacity, (rows, columns)), shape=(n, n)).tocsr()
    return int(maximum_flow(graph, 0, n - 1).flow_value)


def entropy(weights: np.ndarray) -> float:
    """-sum p log p in nats over p = |weight| / sum |weight|; NaN without any weight but 0, or with a NaN among them."""
    total = np.abs(weights).sum()
    if not total > 0:
        return float("nan")
    share = np.abs(weights) / total
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
