"""Sets of units changed together: what they do beside random sets, for heads and neurons and every kind of change."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import load_model
from conceptlab.model.metric import logit_diff
from conceptlab.results import Site
from conceptlab.worlds.ioi import ioi


@pytest.fixture(scope="module")
def case():
    world = ioi(n_prompts=16)
    model = load_model(world.model, tokenizer=world.tokenizer)
    return model, world.prompts["clean"], logit_diff(world.answer_ids("clean"), world.answer_ids("swapped"))


def head(layer, index):
    return Site("z", layer, (index,))


@pytest.mark.parametrize("op", ["mean", "zero", "clamp"])
def test_the_name_mover_matters_and_random_heads_do_not(case, op):
    sets = {"mover": [head(2, 0)], "idle": [head(0, 3)]}
    found = set_effects(*case[:2], sets, case[2], op=op, strength=0.0, n_random=30).data
    clean = found.attrs["clean"]
    assert found["score"].values[0] > 0.8 * clean and abs(found["score"].values[1]) < 0.05 * clean
    assert found["low"].values[0] <= found["score"].values[0] <= found["high"].values[0]
    assert found["size"].values.tolist() == [1, 1] and found["p"].values[1] > 0.05


def test_scaling_doubles_what_a_negative_mover_takes_away(case):
    found = set_effects(*case[:2], {"negative": [head(2, 1)]}, case[2], op="scale", strength=2.0, n_random=4).data
    away = set_effects(*case[:2], {"negative": [head(2, 1)]}, case[2], op="zero", n_random=4).data
    assert found["score"].values[0] > 0 > away["score"].values[0]
    assert np.allclose(found["score"].values, -away["score"].values, rtol=1e-3)


def test_a_set_edit_is_the_edit_of_its_parts(case):
    model, texts, metric = case
    sets = {"two": [head(2, 0), head(0, 1)]}
    score = set_effects(model, texts, sets, metric, op="zero", n_random=0).data["score"].values[0]
    with model.edited(*(e for e in _zeros(sets["two"]))):
        logits = model.logits(texts)
    with_edits = metric.of(logits.gather(1, metric.tokens), torch.arange(len(texts))).mean()
    plain = metric.of(model.logits(texts).gather(1, metric.tokens), torch.arange(len(texts))).mean()
    assert abs(float(plain - with_edits) - score) < 1e-4


def _zeros(units):
    from conceptlab.results import Edit

    return [Edit(unit, "zero") for unit in units]


def test_random_sets_of_the_same_layers_stay_there(case):
    model, texts, metric = case
    sets = {"upper": [head(2, 0), head(2, 1)]}
    with pytest.raises(InputError, match="leaves only 0 others in its layers"):
        set_effects(model, texts, {"all": [head(2, h) for h in range(model.n_heads)]}, metric, same_layers=True)
    found = set_effects(model, texts, sets, metric, same_layers=True, n_random=3).data
    assert np.isfinite(found["control"].values).all()


def test_wrong_sets_are_one_line(case):
    model, texts, metric = case
    for sets, says in (
        ({}, "no sets of heads or neurons"),
        ({"none": []}, "'none' is empty"),
        ({"far": [head(1, 9)]}, "layer 1 has heads 0 to"),
        ({"mixed": [head(1, 0), Site("mlp_post", 1, (0,))]}, "all of one site"),
        ({"stream": [Site("resid_pre", 1)]}, "heads .L5.H3.z. or neurons"),
    ):
        with pytest.raises(InputError, match=says):
            set_effects(model, texts, sets, metric)
    with pytest.raises(InputError, match="op='burn' is not known"):
        set_effects(model, texts, {"one": [head(1, 0)]}, metric, op="burn")
