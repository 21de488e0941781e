"""coding-spot: the planted rows are found and taken away, single weights come back, and a user's file is read."""

import csv

import pytest
import torch

from conceptlab.errors import ConceptlabError, InputError
from conceptlab.find.abilities.ability_weights import ability_weights, matched_weights
from conceptlab.measure.effects.weight_knockout import weight_knockout, without_weights
from conceptlab.model import load_model
from conceptlab.model.text_loss import matrices, text_loss, weight_importance
from conceptlab.recipes import Setup
from conceptlab.recipes.coding_spot import QUICK, reproduce
from conceptlab.results.weights import Weights
from conceptlab.worlds.code_and_prose import code_and_prose, texts, tokenizer
from tests.recipes.findings import quick_form

SEED = 11


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache):
    return load_model(code_and_prose(seed=SEED, schedule=QUICK, cache=cache).model, tokenizer=tokenizer())


def test_the_quick_form_holds_beside_its_controls(model, cache):
    done = quick_form(reproduce, seed=SEED, cache=cache)
    assert done.holds and all(f.holds for f in done.findings) and len(done.findings) == 5
    assert done.findings[0].value > 0.9 > 0.4 > done.findings[0].control


def test_where_nothing_is_private_the_spot_is_not_in_the_planted_rows(cache):
    free = code_and_prose(seed=SEED, null=True, schedule=QUICK, cache=cache)
    spot = ability_weights(
        load_model(free.model, tokenizer=tokenizer()), {"dialect 1": texts("dialect 1", 32, 1)}, texts("prose", 32, 1)
    )
    hits = sum(int((at % 128 < 32).sum()) for name, at in spot.places.items() if name.endswith("c_fc.weight"))
    every = sum(len(at) for name, at in spot.places.items() if name.endswith("c_fc.weight"))
    assert hits / every < 0.6  # a quarter by chance


def test_importance_is_weight_times_gradient(model):
    some = texts("prose", 4, 3)
    found = weight_importance(model, some, rows_at_once=2)
    name, weight = next(iter(matrices(model).items()))
    wanted = torch.zeros_like(weight)
    for part in (some[:2], some[2:]):
        inputs = model.padded(model.encode(part), [0, 1])
        loss = model.module(**inputs, labels=inputs["input_ids"]).loss
        wanted += (weight * torch.autograd.grad(loss, weight)[0]).abs() / 2
    assert torch.allclose(found[name], wanted, rtol=1e-4, atol=1e-9)


def test_loss_is_that_of_the_library_row_by_row(model):
    some = ["the dog saw the cat outside .", "def foo ( bar ) ;"]
    found = text_loss(model, some)
    for row, text in enumerate(some):
        inputs = model.padded(model.encode([text]), [0])
        assert float(model.module(**inputs, labels=inputs["input_ids"]).loss.detach()) == pytest.approx(
            float(found[row]), rel=1e-5
        )


def test_weights_come_back_and_are_kept_on_disk(model, tmp_path):
    spot = ability_weights(model, {"dialect 1": texts("dialect 1", 8, 1)}, texts("prose", 8, 1), share=0.005)
    before = {name: w.detach().clone() for name, w in matrices(model).items()}
    with without_weights(model, spot):
        assert all(bool((matrices(model)[n].flatten()[at] == 0).all()) for n, at in spot.places.items())
    assert all(torch.equal(before[name], w) for name, w in matrices(model).items())
    spot.save(tmp_path / "spot")
    again = Weights.load(tmp_path / "spot")
    assert again.overlap(spot) == 1.0 and len(again) == len(spot) and again.share == pytest.approx(0.005, rel=0.01)
    random = matched_weights(model, spot)
    assert random.overlap(spot) == 0.0 and len(random) == len(spot)


def test_a_users_file_runs(model, tmp_path):
    path = tmp_path / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for label, corpus in (("python", "dialect 1"), ("c", "dialect 2"), ("general", "prose")):
            writer.writerows((text, label) for text in texts(corpus, 96, 5))
    done = reproduce(Setup(quick=True, model=model, data=path))
    assert done.findings[0].holds and set(done.results["knock-out"].data["corpus"].values) == {"python", "c", "general"}


def test_wrong_input_is_one_clear_line(model, tmp_path):
    some = texts("prose", 4, 3)
    for given, says in (
        ({"corpora": {}, "general": some}, "no corpus of the ability"),
        ({"corpora": {"a": some}, "general": some, "share": 0.0}, "must lie between 0 and 1"),
        ({"corpora": {"a": ["dog", ""]}, "general": some}, "row 1 has 1 tokens, so no next token is foreseen"),
        ({"corpora": {"a": some}, "general": some, "share": 0.9}, "are left; choose another share"),
    ):
        with pytest.raises(InputError, match=says):
            ability_weights(model, **given)
    with pytest.raises(InputError, match="together"):
        reproduce(Setup(quick=True, model=model))
    path = tmp_path / "few.csv"
    path.write_text("text,label\n" + "".join(f"the dog {i},general\n" for i in range(9)), encoding="utf-8")
    with pytest.raises(ConceptlabError, match="few.csv"):
        reproduce(Setup(quick=True, model=model, data=path))
    spot = ability_weights(model, {"a": some}, texts("dialect 1", 4, 1))
    other = Weights(spot.places, spot.score, {name: size + 1 for name, size in spot.sizes.items()}, spot.provenance)
    with pytest.raises(InputError, match="belong to another model"):
        weight_knockout(model, {"a": some}, {"other": other}, lambda _: spot, n_random=0)
