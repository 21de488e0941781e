"""analogies: holds on the planted worlds, runs on a user's file, and does not hold where nothing is planted."""

import json

import pytest

from conceptlab.errors import InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.analogies import on_worlds, reproduce
from conceptlab.worlds.analogy import analogy
from conceptlab.worlds.story_roles import story_roles
from tests.recipes.findings import quick_form


def written(world, path):
    words = (text.split() for text in world.prompts["analogies"])
    cells = zip(words, world.answers["analogies"], world.truth["relations"], strict=True)
    rows = [{"a": w[0], "b": w[3], "c": w[5], "d": d, "relation": relation} for w, d, relation in cells]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=5)
    assert done.holds and all(f.holds for f in done.findings) and len(done.findings) == 5 and not done.notes
    found = {f.name: f for f in done.findings}
    repaired = found["failing analogies repaired by the relation's state"]
    assert repaired.value >= 0.60 and repaired.control <= 0.10 < repaired.low
    assert found["layers from the best reading of the relation to the answer"].value == 1.0
    assert found["relation read at the last word where analogies fail"].value < 0.5
    aligned = found["alignment tells analogous stories from others"]
    assert aligned.value >= 0.90 and aligned.control < 0.65


@pytest.mark.parametrize("seed", [5, 6])
def test_null_worlds_do_not_hold(seed):
    done = on_worlds(analogy(seed=seed, null=True), story_roles(n_stories=24, seed=seed, null=True), seed=seed)
    assert not done.holds and not any(f.holds for f in done.findings)


def test_a_users_model_and_file_run(tmp_path):
    world = analogy(seed=5)
    model = load_model(world.model, tokenizer=world.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=written(world, tmp_path / "analogies.jsonl")))
    assert done.holds and done.provenance.n == 192 and len(done.findings) == 4
    assert "no stories" in done.notes[-1]


def test_a_model_that_solves_too_little_is_told_so(tmp_path):
    world = analogy(n_prompts=24, seed=5, null=True)
    model = load_model(world.model, tokenizer=world.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=written(world, tmp_path / "analogies.jsonl")))
    assert not done.holds and done.notes[0].startswith(done.findings[0].name)
    assert "8 of each are needed" in done.notes[0]


def test_model_and_data_come_together(tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
