"""CD-T search: planted circuits come out, also through queries and keys, null twins give empty ones, decoys stay outside."""

from functools import cache, partial

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conceptlab.find.circuits.cdt_discovery import cdt_discovery, node_strength, search
from conceptlab.measure.attribution.contextual_decomposition import contextual_decomposition
from conceptlab.model import load_model
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import logit, logit_diff
from conceptlab.model.split_rules import RULES
from conceptlab.results import Circuit
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi

N = 16
WORLDS = {
    "ioi": (ioi, "swapped", "distinct", {"L0.H0", "L1.H0", "L2.H0", "L2.H1"}),
    "induction_hard": (induction, "key", "key", {"L0.H0", "L1.H0"}),
    "induction_soft": (partial(induction, attention="soft"), "key", "key", {"L0.H0", "L1.H0"}),
    "boolean_and": (partial(boolean, gate="and"), "key", "key", {"L0.H0", "L1.H0", "L1.H1", "L1.mlp"}),
}


def asked(name, seed, null=False):
    build, other, reference, _ = WORLDS[name]
    world = build(seed=seed, null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    right, wrong = world.answer_ids("clean")[:N], world.answer_ids(other)[:N]
    metric = logit(right) if name.startswith("boolean") else logit_diff(right, wrong)
    return model, world.prompts["clean"][:N], metric, world.prompts[reference]


@cache
def found(name, seed=10, null=False):
    model, texts, metric, reference = asked(name, seed, null)
    return cdt_discovery(model, texts, metric, reference=reference, seed=seed)


@pytest.mark.parametrize("name", WORLDS)
def test_the_planted_nodes_are_found_and_no_other(name):
    circuit = found(name)
    assert set(circuit.nodes) == {"embed", *WORLDS[name][3], "logits"}
    settings = circuit.provenance.settings
    assert settings["faithfulness"] == pytest.approx(1.0, abs=0.05)
    assert settings["faithfulness_random"][0] < 0.3
    assert (circuit.q <= 0.05).all() and circuit.provenance.causal == "ablation"


def test_heads_that_act_through_queries_and_keys_are_edges():
    edges = found("ioi").edge_names()
    for edge in (("L1.H0", "L2.H0.q"), ("L1.H0", "L2.H1.q"), ("L0.H0", "L1.H0.v"), ("L2.H0", "logits")):
        assert edge in edges
    assert ("L0.H0", "L1.H0.k") in found("induction_hard").edge_names()
    weights = dict(zip(edges, found("ioi").weights, strict=True))
    assert weights["L2.H1", "logits"] < 0 < weights["L2.H0", "logits"]


def test_null_twins_give_empty_circuits():
    lengths = [
        len(found(name, seed, null=True)) for name in ("ioi", "induction_soft", "boolean_and") for seed in (10, 11)
    ]
    assert sum(n > 0 for n in lengths) <= 1  # of six, at a rate of false findings of 5 %


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", WORLDS)
def test_strength_ranks_planted_heads_first(name, rule):
    model, texts, metric, reference = asked(name, 11)
    scores = contextual_decomposition(model, texts, metric, reference=reference, rule=rule, n_random=0)
    shape = graph_of(model)
    heads = shape.senders.kind == "head"
    planted = np.isin(np.array(shape.senders.names)[heads], list(WORLDS[name][3]))
    assert roc_auc_score(planted, node_strength(scores, shape)[heads]) >= 0.95


def test_a_strict_level_or_no_round_finds_nothing():
    model, texts, metric, reference = asked("ioi", 10)
    scores = contextual_decomposition(model, texts, metric, reference=reference)
    assert len(search(scores, graph_of(model), rounds=0)) == 0
    assert len(search(scores, graph_of(model), level=0.0)) == 0
    one = search(scores, graph_of(model), width=1, rounds=1)
    assert {a for a, b in one.edge_names() if b == "logits"} == {"L2.H0"}


def test_a_circuit_is_saved(tmp_path):
    found("ioi").save(tmp_path)
    assert Circuit.load(tmp_path) == found("ioi")
