"""Analogies whose failures lack a planted state: read where it stands, repaired when patched in; stories align by roles."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.data.analogies import Analogy
from conceptlab.errors import DataError, InputError
from conceptlab.measure.alignment.mutual_alignment import mutual_alignment, mutual_share
from conceptlab.measure.patching.patch_and_repair import choose_donors, held_out_repair, patch_and_repair
from conceptlab.measure.probing.relation_probe import answer_place, attempt, relation_probe
from conceptlab.measure.probing.text_probe import probe_texts
from conceptlab.model import load_model
from conceptlab.worlds.analogy import analogy
from conceptlab.worlds.story_roles import story_roles


@cache
def case(seed=5, null=False):
    world = analogy(seed=seed, null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    rows = zip(world.prompts["analogies"], world.answers["analogies"], world.truth["relations"], strict=True)
    items = [Analogy(t.split()[0], t.split()[3], t.split()[5], d, relation) for t, d, relation in rows]
    return world, model, attempt(model, items)


@cache
def stories(seed=5, null=False):
    world = story_roles(n_stories=32, seed=seed, null=null)
    return world, load_model(world.model, tokenizer=world.tokenizer)


def repaired(seed=5, null=False, at="b"):
    world, model, case_ = case(seed, null)
    relations = [item.relation for item in case_.items]
    rows, donors, wrong = choose_donors(case_.rows(False).tolist(), case_.rows(True).tolist(), relations, seed=seed)
    texts = ([case_.texts[r] for r in of] for of in (rows, donors, wrong))
    place = world.truth["positions"][at]
    return patch_and_repair(model, *texts, case_.ids[rows].tolist(), at=place, groups=rows)


def test_donors_share_the_relation_and_wrong_donors_do_not():
    _, _, found = case()
    relations = np.array([item.relation for item in found.items])
    rows, donors, wrong = choose_donors(
        found.rows(False).tolist(), found.rows(True).tolist(), relations.tolist(), each=2
    )
    assert len(rows) == len(donors) == len(wrong) == 2 * len(found.rows(False))
    assert (relations[rows] == relations[donors]).all() and not (relations[rows] == relations[wrong]).any()
    assert not found.solved[rows].any() and found.solved[donors].all() and found.solved[wrong].all()


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_the_relations_state_repairs_what_lacks_it_and_another_relations_does_not(seed):
    world = case(seed)[0]
    found = repaired(seed).data
    assert found.attrs["right_before"] == 0.0
    for layer in world.truth["repairing_layers"]:
        at = found.sel(layer=layer)
        assert float(at["score"]) >= 0.60 and float(at["control"]) <= 0.10 and float(at["q"]) <= 0.05
        assert float(at["score"]) == pytest.approx(
            world.truth["repairable"], abs=0.08
        )  # donors with the same pair help, too
        assert float(at["low"]) > float(at["control_high"])
    others = found.sel(layer=[layer for layer in range(4) if layer not in world.truth["repairing_layers"]])
    assert float(others["score"].max()) < 0.35
    _, rate, wrong, rows = held_out_repair(repaired(seed), seed=seed)
    assert rate.mean() >= 0.60 and wrong.mean() <= 0.10 and len(rate) == len(wrong) == len(rows) < found.sizes["row"]


def test_rows_that_lack_the_relation_are_repaired_and_the_others_not():
    world, _, found = case()
    result = repaired()
    kinds = np.array(world.truth["fails"])[np.repeat(found.rows(False), 3)]
    each = result["each"].values[1]
    assert each[kinds == "relation"].mean() > 0.95 and each[kinds == "fact"].mean() < 0.2


@pytest.mark.parametrize("seed", [5, 6])
def test_nothing_repairs_a_null_world(seed):
    found = repaired(seed, null=True).data
    assert float(found["score"].max()) < 0.25 and float(found["q"].min()) > 0.05


@pytest.mark.parametrize("seed", [5, 6])
def test_the_relation_is_read_before_the_answer_and_not_where_analogies_fail(seed):
    world, model, found = case(seed)
    solved, fails = (relation_probe(model, found, solved=s, permutations=20) for s in (True, False))
    attrs = solved.data.attrs
    assert (
        attrs["best"] == 1 + world.truth["moved_layer"] < answer_place(model, found) == 1 + world.truth["answer_layer"]
    )
    assert attrs["nested"] > 0.95 and attrs["p"] <= 0.05
    assert fails.data.attrs["nested"] < 0.5 and fails.data.attrs["high"] < attrs["low"]


def test_a_probe_finds_nothing_in_a_null_world_and_says_where_folds_are_impossible():
    world, model, found = case(null=True)
    last = [world.truth["positions"]["link"]] * len(found.texts)
    pairs = [f"{item.a} {item.b}" for item in found.items]
    null = probe_texts(model, found.texts, world.truth["relations"], last, groups=pairs, permutations=19)
    assert null.data.attrs["p"] > 0.05
    assert isinstance(relation_probe(model, attempt(model, found.items[:4]), solved=False, permutations=2), DataError)
    with pytest.raises(InputError, match="give one of each a row"):
        probe_texts(model, found.texts, ["a"], last)


def test_a_wrong_patch_request_is_one_clear_line():
    _, model, found = case()
    texts, ids = found.texts[:3], found.ids[:3].tolist()
    for given, says in (
        ({"failing": texts[:2]}, "give one of each a row"),
        ({"at": 40}, "row 0 has 9 tokens; there is no position 40"),
        ({"at": [1, 2]}, "2 positions came for 3 texts"),
    ):
        with pytest.raises(InputError, match=says):
            patch_and_repair(
                model, **{"failing": texts, "donors": texts, "wrong_donors": texts, "answers": ids, "at": 4, **given}
            )
    solved = found.rows(True)[:3]
    warned = patch_and_repair(
        model,
        *[[found.texts[r] for r in solved]] * 3,
        found.ids[solved].tolist(),
        at=[4, -5, 4],
        donor_at=-5,
        groups=[0, 0, 1],
    )
    assert warned.provenance.warnings[0].startswith("3 of the failing rows are right unpatched")
    assert (warned["score"].values == 1.0).all()  # a row's own state changes nothing


def test_mutual_share_on_states_made_by_hand():
    generator = torch.Generator().manual_seed(5)
    source = torch.randn(12, 64, generator=generator)
    order = torch.randperm(12, generator=generator)
    target = source[order] + 0.1 * torch.randn(12, 64, generator=generator)
    assert float(mutual_share(source, target)) == 1.0
    assert float(mutual_share(source, target)) == float(mutual_share(source, target[torch.arange(11, -1, -1)]))
    surface = source.mean(0) + 0.1 * torch.randn(12, 64, generator=generator)
    assert float(mutual_share(source, surface)) < 0.35
    turned = [target @ torch.linalg.qr(torch.randn(64, 64, generator=generator))[0] for _ in range(20)]
    assert 0.3 < float(torch.stack([mutual_share(source, t) for t in turned]).mean()) < 0.7  # chance for 12 against 12
    assert (
        float(mutual_share(source[:1], target[:1])) == 1.0
    )  # two tokens alone are always mutual: why chance is taken off


@pytest.mark.parametrize("seed", [5, 6])
def test_analogous_stories_align_by_roles_and_not_by_words(seed):
    world, model = stories(seed)
    found = mutual_alignment(model, world.prompts["source"], world.prompts["target"]).data
    aligned = found.sel(layer=str(world.truth["aligned_layer"]))
    assert float(aligned["auc"]) >= 0.9 and float(aligned["q"]) <= 0.05 and float(aligned["share"]) > 0.95
    assert float(aligned["score"]) > 0.35 and abs(float(aligned["control"])) < 0.1
    words = found.sel(layer="embed")
    assert float(words["auc"]) < 0.6 and float(words["q"]) > 0.05
    surface = mutual_alignment(model, world.prompts["source"], world.prompts["distractor"]).data.sel(layer="1")
    assert float(surface["score"]) < 0.15 and float(surface["auc"]) < 0.75


@pytest.mark.parametrize("seed", [5, 6])
def test_stories_of_a_null_world_do_not_align(seed):
    world, model = stories(seed, null=True)
    found = mutual_alignment(model, world.prompts["source"], world.prompts["target"]).data
    assert float(found["auc"].max()) < 0.65 and float(found["q"].min()) > 0.05


def test_shared_and_ignored_words_are_left_out():
    world, model = stories()
    sources = list(world.prompts["source"])
    with pytest.raises(InputError, match="no words left that are theirs alone"):
        mutual_alignment(model, sources, sources)
    kept = mutual_alignment(model, sources, sources, keep_shared=True).data
    assert float(kept["auc"][0]) > 0.95 and float(kept["share"][0]) == 1.0  # words alone: what leaving them out is for
    verbs = {text.split()[0] for text in sources}
    fewer = mutual_alignment(model, sources, world.prompts["target"], ignored=verbs)
    assert fewer.provenance.settings["ignored"] == len(verbs)
    for n, shuffles in ((1, 1), (4, 4), (4, 0)):
        with pytest.raises(InputError, match="more of them than shuffles"):
            mutual_alignment(model, sources[:n], sources[:n], n_shuffles=shuffles)
    with pytest.raises(InputError, match="3 sources, 4 candidates"):
        mutual_alignment(model, sources[:3], sources[:4], n_shuffles=1)
