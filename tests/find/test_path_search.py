"""Iterative path patching finds planted circuits edge by edge, and nothing in their null twins."""

from functools import cache

import pytest

from conceptlab.errors import InputError
from conceptlab.find.circuits.path_search import path_search
from conceptlab.model import load_model
from conceptlab.model.metric import logit_diff
from conceptlab.worlds.shared_subcircuit import CIRCUITS, shared_subcircuit

from .planted_runs import metric_of, model_of, true_edges, world


@cache
def searched(name: str, corruption: str, *, null: bool = False, seed: int = 5, **limits):
    prompts = world(name, null=null, seed=seed).prompts
    metric = metric_of(name, corruption, null=null, seed=seed)
    return path_search(
        model_of(name, null=null, seed=seed), prompts["clean"], prompts[corruption], metric, seed=seed, **limits
    )


@pytest.mark.parametrize("seed", [5, 6])
def test_the_induction_circuit_is_found_and_no_other_edge(seed):
    found = searched("induction", "key", seed=seed)
    assert set(found.edge_names()) == true_edges("induction")
    assert (abs(found.weights - 1) < 0.05).all() and (abs(found.control) < 0.2).all() and (found.q <= 0.05).all()


@pytest.mark.parametrize("seed", [5, 6])
def test_the_heads_of_indirect_objects_are_found_with_their_exact_effects(seed):
    found = searched("ioi", "swapped", seed=seed)
    assert {str(site) for site in found.heads()} == {"L0.H0.z", "L1.H0.z", "L2.H0.z", "L2.H1.z"}
    effect = dict(zip(found.edge_names(), found.weights, strict=True))
    for sender, receiver, stated in world("ioi", seed=seed).truth["edges"]:
        assert effect.get((sender, receiver), 0.0) == pytest.approx(stated, abs=0.01)
    assert found.provenance.causal == "patching" and found.provenance.passes > 0
    assert (found.low <= found.weights).all() and (found.weights <= found.high).all()


@pytest.mark.parametrize("name", ["ioi", "induction"])
def test_null_twins_have_no_circuit(name):
    corruption = "swapped" if name == "ioi" else "key"
    for seed in (5, 6, 7):
        try:
            found = searched(name, corruption, null=True, seed=seed)
        except InputError as error:
            assert "score the same" in str(error)
            continue
        assert len(found) <= 1, found


@cache
def task(name: str, *, seed: int = 5):
    planted = shared_subcircuit(n_prompts=16, seed=seed)
    model = load_model(planted.model, tokenizer=planted.tokenizer)
    metric = logit_diff(planted.answer_ids(name), planted.answer_ids(f"{name}_swapped"))
    return model, planted.prompts[name], planted.prompts[f"{name}_swapped"], metric


@pytest.mark.parametrize("name", CIRCUITS)
def test_each_of_three_tasks_of_one_model_has_its_planted_heads(name):
    found = path_search(*task(name))
    assert {f"L{site.layer}.H{site.units[0]}" for site in found.heads()} == set(CIRCUITS[name])


def test_limits_keep_the_strongest_nodes_and_the_first_rounds():
    whole, one = path_search(*task("give")), path_search(*task("give"), most=1)
    below, above, last = (name for name in one.nodes if "H" in name)  # one a round, the strongest
    assert below == "L0.H0" and above in ("L1.H0", "L1.H1") and last == "L2.H0"  # the two in the middle do the same
    assert set(one.edge_names()) < set(whole.edge_names())
    first = path_search(*task("give"), rounds=1)
    assert set(first.edge_names()) == {("L2.H0", "logits"), ("L2.H1", "logits")}
    assert first.provenance.settings["rounds"] == 1
    assert len(path_search(*task("give"), min_effect=2.0)) == 0


@pytest.mark.parametrize(
    "limits", [{"most": 0}, {"rounds": 0}, {"min_effect": -1.0}, {"min_effect": float("nan")}, {"level": 0.0}, {"level": 2.0}]
)  # fmt: skip
def test_limits_that_find_nothing_are_refused(limits):
    with pytest.raises(InputError, match="give"):
        path_search(*task("give"), **limits)
