"""Selective units, contrast of tasks and double dissociation: they find the planted sets, and nothing in the null twin."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.data.answer_pairs import AnswerPairs
from conceptlab.errors import InputError
from conceptlab.find.abilities.selective_units import selective_units, shuffled_differences, units_of
from conceptlab.find.abilities.task_contrast import attention_readings, task_contrast
from conceptlab.measure.effects.double_dissociation import double_dissociation
from conceptlab.measure.effects.paired_tasks import paired_task
from conceptlab.measure.patching.patched_units import patched_units
from conceptlab.model import load_model
from conceptlab.model.sweep.plain import plain_values
from conceptlab.results import Edit, Site
from conceptlab.worlds.recall_and_hops import DECOYS, REASONING, RECALL, SHARED, recall_and_hops

TASKS = ("recall", "reasoning")


@cache
def setting(seed=5, null=False, n=96):
    world = recall_and_hops(n_prompts=n, seed=seed, null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    columns = {t: [of[k] for k in (t, f"{t}_corrupted") for of in (world.prompts,)] for t in TASKS}
    answers = {t: [world.answers[t], world.answers[f"{t}_corrupted"]] for t in TASKS}
    return model, {t: paired_task(model, AnswerPairs(t, *columns[t], *answers[t])) for t in TASKS}


def names(sites):
    return {str(site).rsplit(".", 1)[0] for site in sites}


def planted(truth):
    return {*truth["heads"], *truth["neurons"]}


def test_patched_units_are_what_plain_patching_says():
    model, tasks = setting(n=24)
    for task in tasks.values():
        found = patched_units(model, task)
        clean, corrupted = (plain_values(model, rows, (), task.metric) for rows in (task.clean, task.corrupted))
        # the first head of each layer, and every fourth neuron
        for unit in [*range(0, 12, 4), *range(12, found.each.shape[1], 4)]:
            site = found.site(unit)
            value = model.capture(task.clean, site.name, layers=[site.layer])[site.name][:, 0][:, list(site.units)]
            edit = Edit(site, "set", value, positions="last")
            plain = plain_values(model, task.corrupted, (edit,), task.metric)
            wanted = (plain - corrupted) / (clean - corrupted).mean()
            assert found.each[:, unit] == pytest.approx(wanted, abs=5e-3), site


@pytest.mark.parametrize("seed", [5, 6])
def test_the_planted_sets_are_found_and_no_decoy(seed):
    model, tasks = setting(seed)
    found = selective_units(model, tasks, seed=seed)
    assert names(units_of(found, "recall")) == planted(RECALL)
    assert names(units_of(found, "reasoning")) == planted(REASONING)
    assert names(units_of(found, "shared")) == {SHARED}
    data = found.data
    whole = data["effect"].values[
        (data["layer"].values == 2) & (data["index"].values == 1) & (data["kind"].values == "head")
    ]
    assert whole[0] == pytest.approx([1.0, 0.0], abs=0.01)
    assert bool((data["low"] <= data["effect"] + 1e-9).all()) and bool((data["effect"] <= data["high"] + 1e-9).all())


@pytest.mark.parametrize("seed", [5, 6])
def test_nothing_is_selective_where_one_circuit_serves_both_or_tasks_are_made_up(seed):
    twin = selective_units(*setting(seed, null=True), seed=seed)
    assert not units_of(twin, "recall") and not units_of(twin, "reasoning")
    assert {"L0.H1", "L1.H0", "L2.H0"} <= names(units_of(twin, "shared"))
    model, tasks = setting(seed)
    rows = np.random.default_rng(seed).permutation(96)
    split = {"recall": tasks["recall"].take(rows[:48].tolist()), "reasoning": tasks["recall"].take(rows[48:].tolist())}
    found = selective_units(model, split, seed=seed)
    assert not units_of(found, "recall") and not units_of(found, "reasoning")
    assert not (task_contrast(model, split, seed=seed)["q"].values <= 0.05).any()


def test_the_contrast_finds_the_planted_sets_and_the_decoys_too():
    model, tasks = setting()
    data = task_contrast(model, tasks).data
    kinds = np.where(data["kind"].values == "head", "H", "N")
    units = zip(kinds, data["layer"].values, data["index"].values, data["q"].values, strict=True)
    differ = {f"L{layer}.{kind}{index}" for kind, layer, index, q in units if q <= 0.05}
    assert planted(RECALL) | planted(REASONING) | planted(DECOYS) <= differ
    assert SHARED not in differ
    assert set(data["reading"].values[data["kind"].values == "neuron"]) == {"activation"}


def test_attention_is_read_as_its_numbers_say():
    pattern = torch.tensor(
        [[[0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0]], [[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0]]]
    )
    found = attention_readings(pattern, torch.tensor([3, 4]))
    assert found[0].numpy() == pytest.approx(np.array([[0.5, 0.5, 1.0, np.log(2)], [0.0, 1.0, 0.0, 0.0]]), abs=1e-6)
    assert found[1].numpy() == pytest.approx(np.array([[0.25, 0.25, 1.5, np.log(4)], [1.0, 0.0, 3.0, 0.0]]), abs=1e-6)


def sites(truth):
    return [
        Site.parse(f"{name}.{'z' if '.H' in name else 'mlp_post'}") for name in (*truth["heads"], *truth["neurons"])
    ]


def test_either_set_costs_its_own_task_and_spares_the_other():
    model, tasks = setting()
    lost = double_dissociation(model, tasks, {"recall": sites(RECALL), "reasoning": sites(REASONING)})
    score = lost["score"].values
    assert score[0, 0] > 60 and score[1, 1] > 60 and score[0, 1] == score[1, 0] == 0
    assert float(lost["control_high"].max()) <= 10 and float(lost["p"].values[0, 0]) < 0.05
    of = lost.data.attrs
    assert of["index_low"] > 1.2 and of["index_null"] < 0.3 and of["index_random"] < 0.1 and of["index_p"] <= 0.001
    assert of["index"] == pytest.approx((score[0, 0] - score[0, 1] + score[1, 1] - score[1, 0]) / 100)
    assert lost["accuracy"].values.tolist() == [1.0, 1.0] and lost["size"].values.tolist() == [7, 8]
    assert not lost.provenance.warnings


def test_a_set_that_leaves_too_few_units_for_its_random_sets_says_so():
    model, tasks = setting(n=24)
    most = [Site("z", 2, (head,)) for head in range(3)]
    lost = double_dissociation(model, tasks, {"recall": [Site("mlp_post", 1, (0,))], "reasoning": most}, n_random=2)
    says = "reasoning has 3 heads of layer 2, and its random sets 1, all that are left there"
    assert lost.provenance.warnings == (says,)


def test_sets_without_effect_or_of_one_circuit_show_no_dissociation():
    model, tasks = setting()
    decoys = sites(DECOYS)
    nothing = double_dissociation(model, tasks, {"recall": decoys[::2], "reasoning": decoys[1::2]})
    assert np.abs(nothing["score"].values).max() == 0 and nothing.data.attrs["index"] == 0
    assert nothing.data.attrs["index_p"] == 1.0
    twin, same = setting(null=True)
    both = double_dissociation(twin, same, {"recall": sites(REASONING)[:1], "reasoning": sites(REASONING)[1:2]})
    assert both["score"].values.min() > 40 and abs(both.data.attrs["index"]) <= both.data.attrs["index_null"] + 0.05


def test_shuffled_differences_are_those_of_dealt_out_rows():
    each = [np.eye(3)[:, :2], np.ones((5, 2))]
    null = shuffled_differences(each, 400, 0)
    assert null.shape == (400, 2) and abs(null.mean(0)).max() < 0.1
    rows = np.concatenate(each)
    order = np.random.default_rng(0).permutation(8)
    assert null[0] == pytest.approx(rows[order[:3]].mean(0) - rows[order[3:]].mean(0))


def test_input_that_cannot_work_is_one_line():
    model, tasks = setting()
    few = {name: task.take([0, 1]) for name, task in tasks.items()}
    good = {"recall": sites(RECALL), "reasoning": sites(REASONING)}
    for call, says in (
        (lambda: selective_units(model, few), "has 2 rows, and 8 are needed"),
        (lambda: task_contrast(model, {"recall": tasks["recall"]}), "give two"),
        (lambda: double_dissociation(model, tasks, {"recall": good["recall"]}), "give those of recall and reasoning"),
        (lambda: double_dissociation(model, tasks, {**good, "recall": []}), "is empty"),
        (lambda: double_dissociation(model, tasks, {**good, "recall": good["reasoning"]}), "share a unit"),
        (lambda: double_dissociation(model, tasks, {**good, "recall": [Site("z", 9, (0,))]}), "no head"),
        (lambda: paired_task(model, AnswerPairs("recall", ("a b",), ("a",), ("blue",), ("dun",))), "as many"),
    ):
        with pytest.raises(InputError, match=says):
            call()
