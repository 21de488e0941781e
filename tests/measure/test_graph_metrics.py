"""Graph metrics: by hand on small graphs, against networkx on random ones, and beside random circuits of equal size."""

import math

import numpy as np
import pytest

from conceptlab.errors import ResultError
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.measure.circuits.graph_metrics import SAME_WEIGHTS, graph_metrics, metrics_of
from conceptlab.results import Circuit, GraphShape, Provenance, all_edges
from conceptlab.worlds.boolean import boolean

PROVENANCE = Provenance("by hand", n=8, seed=0)
CHAIN = [("embed", "L0.H0.v"), ("L0.H0", "L1.H0.k"), ("L1.H0", "logits")]
FORK = [
    ("embed", "L0.H0.v", 3),
    ("L0.H0", "logits", 1),
    ("embed", "L0.H1.q"),
    ("embed", "L0.H1.v"),
    ("L0.H1", "logits"),
]


SHAPE = GraphShape(2, 4)


def circuit(edges, shape=SHAPE):
    return Circuit.from_edges(shape, edges, PROVENANCE)


def test_a_chain_by_hand():
    found = metrics_of(circuit(CHAIN))
    expected = {
        "nodes": 4, "edges": 3, "density": 3 / 12, "mean_degree": 1.5, "max_degree": 2, "max_in_centrality": 1 / 3,
        "max_out_centrality": 1 / 3, "longest_path": 3, "k_core": 1, "clustering": 0, "disjoint_paths": 1, "on_path": 1,
        "entropy": math.log(3), "share_q": 0, "share_k": 1 / 3, "share_v": 1 / 3, "share_mlp": 0, "share_logits": 1 / 3,
    }  # fmt: skip
    assert found == pytest.approx(expected)


def test_a_fork_by_hand():
    found = metrics_of(circuit(FORK))
    assert found["disjoint_paths"] == 2 and found["nodes"] == 4 and found["edges"] == 5
    assert found["density"] == pytest.approx(4 / 12)  # four arcs: two of the edges join embed and L0.H1
    assert found["k_core"] == 2 and found["longest_path"] == 2 and found["max_out_centrality"] == pytest.approx(2 / 3)
    share = np.array([3, 1, 1, 1, 1]) / 7
    assert found["entropy"] == pytest.approx(-(share * np.log(share)).sum())
    triangle = metrics_of(circuit([*CHAIN[:2], ("embed", "L1.H0.q"), ("L1.H0", "logits")]))
    assert triangle["clustering"] == pytest.approx((1 + 1 + 1 / 3 + 0) / 4)


def test_disjoint_ways_of_planted_circuits():
    """A chain has one way. Both branches of OR pass one MLP, so one cut stops them too; before it there are two ways."""
    branches = boolean(gate="or", n_prompts=2).truth["edges"]["query"]
    assert metrics_of(circuit(branches))["disjoint_paths"] == 1
    before = [(a, "logits" if b == "L1.mlp" else b) for a, b in branches if a != "L1.mlp"]
    assert metrics_of(circuit(before))["disjoint_paths"] == 2


def test_a_key_that_several_heads_share():
    shape = GraphShape(2, 4, 2)
    found = metrics_of(circuit([("embed", "L0.H1.k"), ("L0.H2", "logits"), ("L0.H3", "logits")], shape))
    assert found["nodes"] == 4 and found["mean_degree"] == 2  # embed, two heads, logits in a square
    assert found["disjoint_paths"] == 1


def drawn(seed, shape, n):
    rng = np.random.default_rng(seed)
    source, target = all_edges(shape)
    picked = rng.choice(len(source), n, replace=False)
    return Circuit(shape, source[picked], target[picked], rng.normal(size=n), PROVENANCE)


@pytest.mark.parametrize("n", [5, 60, 400])
@pytest.mark.parametrize("shape", [GraphShape(6, 4), GraphShape(6, 4, 2, True, (3,))])
def test_the_same_as_networkx(shape, n):
    nx = pytest.importorskip("networkx")
    for seed in range(3):
        c = drawn(seed, shape, n)
        graph, flows, group = nx.DiGraph(), nx.DiGraph(), shape.n_heads // shape.n_kv_heads
        graph.add_nodes_from(c.nodes)
        flows.add_nodes_from(["embed", "logits"])
        for a, b in c.edge_names():
            flows.add_edge(a, f"into {b}", capacity=1)
            heads = [b]
            if b[-2:] in (".q", ".k", ".v"):
                layer, head, kind = b.split(".")
                own = [int(head[1:])] if kind == "q" else range(int(head[1:]) * group, (int(head[1:]) + 1) * group)
                heads = [f"{layer}.H{h}" for h in own]
            graph.add_edges_from((a, h) for h in heads if h in graph)
            flows.add_edges_from((f"into {b}", h) for h in heads)
        found, plain = metrics_of(c), graph.to_undirected()
        expected = {
            "nodes": graph.number_of_nodes(),
            "density": nx.density(graph),
            "mean_degree": 2 * plain.number_of_edges() / plain.number_of_nodes(),
            "max_degree": max(dict(plain.degree()).values()),
            "max_in_centrality": max(nx.in_degree_centrality(graph).values()),
            "max_out_centrality": max(nx.out_degree_centrality(graph).values()),
            "longest_path": nx.dag_longest_path_length(graph),
            "k_core": max(nx.core_number(plain).values()),
            "clustering": nx.average_clustering(plain),
            "disjoint_paths": nx.maximum_flow_value(flows, "embed", "logits"),
            "on_path": np.mean([_on_path(nx, flows, a, f"into {b}") for a, b in c.edge_names()]),
        }
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def _on_path(nx, flows, a, b):
    return nx.has_path(flows, "embed", a) and nx.has_path(flows, b, "logits")


def test_a_planted_hub_stands_out_and_a_random_circuit_does_not():
    shape = GraphShape(6, 4)
    whole = drawn(0, shape, shape.n_edges)
    hub = np.where(whole.source == shape.sender("L1.H2"), 5.0, 1.0)
    planted = Circuit(shape, whole.source, whole.target, whole.weights * hub, PROVENANCE).top(80)
    found = graph_metrics(planted, n_draws=199)
    centrality = found.data.sel(metric="max_out_centrality")
    assert float(centrality["q"]) <= 0.05 and float(centrality["score"]) > float(centrality["control_high"])
    assert float(found.data["control"].sel(metric="edges")) == 80
    quiet = [
        graph_metrics(draw, n_draws=39, seed=i)
        .data.sel(metric=["max_out_centrality", "clustering", "k_core"])["p"]
        .values
        for i, draw in enumerate(random_circuits(planted, 24, seed=9))
    ]
    assert (np.array(quiet) <= 0.05).mean() <= 0.12


def test_entropy_has_a_control_only_with_the_scores_of_all_edges():
    shape = GraphShape(4, 4)
    rng = np.random.default_rng(0)
    source, target = all_edges(shape)
    whole = Circuit(shape, source, target, rng.normal(size=len(source)), PROVENANCE)
    top = whole.top(40)
    own = graph_metrics(top, n_draws=99).data.sel(metric="entropy")
    assert float(own["score"]) == pytest.approx(float(own["control"])) and float(own["p"]) == 1
    assert graph_metrics(top, n_draws=9).provenance.warnings == (SAME_WEIGHTS,)
    beside = graph_metrics(top, n_draws=99, scored=whole)
    entropy = beside.data.sel(metric="entropy")
    assert beside.provenance.warnings == () and float(entropy["p"]) <= 0.05


def test_wrong_input_is_one_clear_line():
    with pytest.raises(ResultError, match="no edges, so its graph has no shape"):
        graph_metrics(circuit([]))
    weightless = graph_metrics(circuit([(a, b, 0) for a, b in CHAIN]), n_draws=9).data.sel(metric="entropy")
    assert np.isnan(float(weightless["score"])) and np.isnan(float(weightless["p"]))
    found = graph_metrics(circuit(CHAIN), n_draws=9, seed=4)
    assert found.data.equals(graph_metrics(circuit(CHAIN), n_draws=9, seed=4).data)
