"""Rift, answer-writing heads, horizon, movers and redundancy on the ontology world, whose layers and paths are written down."""

from functools import cache

import pytest
import torch

from conceptlab.data.derivations import Derivation
from conceptlab.errors import InputError
from conceptlab.measure.effects.answer_pathways import answer_pathways
from conceptlab.measure.effects.set_knockout import set_knockout
from conceptlab.measure.lenses.answer_writers import answer_writers
from conceptlab.measure.lenses.rift import likeliest_after_last, rift
from conceptlab.measure.patching.context_horizon import context_horizon
from conceptlab.model import load_model
from conceptlab.results import Site
from conceptlab.worlds.ontology import ontology


@cache
def case(seed=5, rift=4, null=False, n=32):
    world = ontology(n_prompts=n, seed=seed, rift=rift, null=null)
    return world, load_model(world.model, tokenizer=world.tokenizer)


def sites(names):
    return [Site.parse(f"{name}.z") for name in names]


@pytest.mark.parametrize(("seed", "layer"), [(5, 3), (6, 4), (7, 6)])
def test_the_rift_is_found_where_it_was_planted(seed, layer):
    world, model = case(seed, layer)
    found = rift(model, world.prompts["clean"]).data
    assert abs(found.attrs["rift_layer"] - world.truth["rift"]) <= 1
    assert found.attrs["rift_layer"] == layer and found.attrs["rift_low"] == found.attrs["rift_high"] == layer + 1
    assert float(found["prior"][layer]) > float(found["context"][layer])
    assert float(found["context"][layer + 1]) > 0.8 and float(found["q"][layer + 1]) <= 0.05
    assert abs(float(found["control"][layer + 1])) < 0.1


def test_null_worlds_have_no_rift_and_no_writers():
    found = []
    for seed in range(5, 11):
        world, model = case(seed, null=True, n=64)
        assert rift(model, world.prompts["clean"]).data.attrs["rift"] == -1
        found.append(float(answer_writers(model, world.prompts["clean"], world.answer_ids("clean"))["q"].min()) <= 0.05)
    assert sum(found) <= 1  # one world in twenty may show something at this rate


def test_the_prior_is_what_the_last_token_alone_calls_up_or_what_is_given():
    world, model = case()
    vocabulary = world.tokenizer.get_vocab()
    ranked = likeliest_after_last(model, model.encode(world.prompts["clean"]))
    assert [row[0] for row in ranked] == [vocabulary[word] for word in world.truth["priors"]]
    given = rift(model, world.prompts["clean"], priors=[row[:1] for row in ranked]).data
    assert given.attrs["rift_layer"] == world.truth["rift"] and float(given["prior"][1]) < 0.5


@pytest.mark.parametrize(("seed", "layer"), [(5, 3), (6, 4), (7, 6)])
def test_the_writers_are_the_planted_ones(seed, layer):
    world, model = case(seed, layer, n=96)
    found = answer_writers(model, world.prompts["clean"], world.answer_ids("clean"))
    sure = {f"L{int(found['layer'][i])}.H{h}" for i, h in zip(*(found["q"].values <= 0.05).nonzero(), strict=True)}
    assert sure == set(world.truth["writers"])
    first = found.data.sel(layer=layer).isel(head=0)
    assert float(first["score"]) == pytest.approx(6.0, abs=0.1) and abs(float(first["drop"])) < 0.02
    assert (
        float(found.data.sel(layer=layer).isel(head=1)["drop"]) > 0.9
    )  # a head that writes nothing leaves the answer unsaid


def test_the_horizon_is_where_the_first_path_has_read_all_it_needs():
    world, model = case()
    texts, noise = world.prompts["clean"], world.prompts["noise"]
    found = context_horizon(
        model, texts, noise, world.truth["context"], world.answer_ids("clean"), other_answers=world.answer_ids("noise")
    ).data
    assert found.attrs["horizon"] == world.truth["horizon"] and found.attrs["accuracy"] == 1.0
    assert found["score"].values.tolist() == [0.0] * 3 + [1.0] * 5
    assert float(found["control"].max()) < 0.25 and float(found["q"][3:].max()) <= 0.05 < float(found["q"][:3].min())
    # the question alone names x, so with another context nothing answers: the noise's answer does not come either
    assert float(found["follows"].max()) == 0.0
    world, model = case(null=True)
    null = context_horizon(model, world.prompts["clean"], world.prompts["noise"], range(17), world.answer_ids("clean"))
    assert null.data.attrs["horizon"] == -1 and "no better than by chance" in null.provenance.warnings[0]


@pytest.mark.parametrize("op", ["mean", "zero"])
def test_one_path_costs_nothing_both_cost_all_and_random_heads_nothing(op):
    world, model = case(n=24)
    truth = world.truth
    sets = {"one": sites(truth["writers"][:1]), "two": sites(truth["writers"][1:]), "both": sites(truth["writers"])}
    found = set_knockout(
        model, world.prompts["clean"], sets, world.answer_ids("clean"), op=op, positions="last", n_random=10
    ).data
    cost, random = found["score"].values, found["control"].values
    assert cost[0] < 10 and cost[1] < 10 and cost[2] > 50 and (random <= 5).all()
    assert found["size"].values.tolist() == [1, 1, 2] and found.attrs["accuracy"] == 1.0
    assert float(found["p"][2]) <= 1 / 11 + 1e-9 and float(found["p"][0]) == 1.0


def test_whole_paths_are_redundant_too():
    world, model = case(n=24)
    paths = {name: sites(heads) for name, heads in world.truth["paths"].items()}
    sets = {**paths, "both": [site for path in paths.values() for site in path]}
    found = set_knockout(model, world.prompts["clean"], sets, world.answer_ids("clean"), n_random=2).data
    assert found["score"].values[:2].max() < 10 and found["score"].values[2] > 50


def test_all_parts_name_the_same_heads():
    world, model = case(n=24)
    cells = zip(
        *(world.prompts["clean"], world.answers["clean"], world.prompts["noise"], world.answers["noise"]), strict=True
    )
    rows = [Derivation(*row, context_end=row[0].rindex(".") + 1) for row in cells]
    found = answer_pathways(model, rows, n_patched=8, n_random=4)
    named = {f"L{layer}.H{head}" for layer, head in found.writers}
    assert named == set(world.truth["writers"]) and found.place == found.overtakes == 1 + world.truth["rift"]
    movers = {f"L{layer}.H{head}" for layer, head in found.movers}
    planted = {name for name, head in world.truth["heads"].items() if head["path"]}
    assert {"L1.H1", "L2.H0"} <= movers <= planted - named and "L1.H2" not in movers
    assert set(found.scores) == {"horizon", "rift", "writers", "answer and prior", "patching", "knock-out"}


def test_a_wrong_request_is_one_clear_line():
    world, model = case()
    texts, ids = world.prompts["clean"], world.answer_ids("clean")
    with pytest.raises(InputError, match="has no token but the last"):
        rift(model, ["seems"])
    with pytest.raises(InputError, match="row 1: text and other text have different numbers of tokens"):
        context_horizon(model, texts[:2], [texts[0], "is seems"], [1, 2], ids[:2])
    with pytest.raises(InputError, match="must lie before the last of 19 tokens"):
        context_horizon(model, texts, texts, [18], ids)
    with pytest.raises(InputError, match="3 lists of context positions"):
        context_horizon(model, texts, texts, [[1]] * 3, ids)
    with pytest.raises(InputError, match="31 answers came with 32 texts"):
        context_horizon(model, texts, texts, [1], ids[:-1])
    for sets, says in (
        ({}, "no sets of heads or neurons"),
        ({"none": []}, "'none' is empty"),
        ({"far": sites(["L1.H9"])}, "has heads 0 to 5"),
    ):
        with pytest.raises(InputError, match=says):
            set_knockout(model, texts, sets, ids)
    with pytest.raises(InputError, match="answers came with"):
        answer_writers(model, texts, ids[:-1])


def test_nothing_is_left_on_the_model():
    world, model = case()
    before = model.logits(world.prompts["clean"])
    set_knockout(model, world.prompts["clean"], {"w": sites(["L4.H0"])}, world.answer_ids("clean"), n_random=1)
    context_horizon(model, world.prompts["clean"], world.prompts["noise"], [3], world.answer_ids("clean"))
    assert torch.equal(before, model.logits(world.prompts["clean"]))
