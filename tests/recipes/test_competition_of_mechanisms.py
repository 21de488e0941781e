"""competition-of-mechanisms: holds on the planted world, on a user's model and file, and not where nothing is planted."""

import json

import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.competition_of_mechanisms import on_world, reproduce
from conceptlab.worlds.fact_and_copy import fact_and_copy
from tests.recipes.findings import quick_form


def rows(world, n=48):
    cells = zip(world.prompts["conflict"], world.answers["conflict"], world.answers["counterfactual"], strict=True)
    return [{"prompt": p, "target_true": f" {t}", "target_new": f" {c}"} for p, t, c in cells][:n]


@pytest.fixture(scope="module")
def world():
    return fact_and_copy(n_prompts=48, seed=5)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=5)
    assert done.holds and all(f.holds for f in done.findings) and len(done.findings) == 4 and not done.notes
    found = {f.name: f for f in done.findings}
    assert found["contributions miss the logit difference by at most"].value <= 1e-4
    assert done.provenance.settings["heads"] == ["L2.H1"]
    flips = found["prompts that turn to the fact, attention x5"]
    assert flips.value >= 0.70 and flips.control <= 0.05 and flips.low < flips.value <= flips.high
    assert found["neutral prompts that change, attention x5"].value <= 0.02
    assert set(done.results) == {"contest", "rescaled"}


@pytest.mark.parametrize("seed", [5, 6])
def test_the_null_world_does_not_hold(seed):
    done = on_world(fact_and_copy(n_prompts=48, seed=seed, null=True), seed=seed)
    assert not done.holds and [f.holds for f in done.findings] == [
        True,
        False,
        False,
        False,
    ]  # sums add up in any model
    assert "no head" in done.notes[0]


@pytest.mark.parametrize("kind", [".json", ".jsonl"])
def test_a_users_model_and_file_run(world, model, tmp_path, kind):
    path = tmp_path / f"facts{kind}"
    made = rows(world)
    path.write_text(json.dumps(made) if kind == ".json" else "\n".join(map(json.dumps, made)), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=model, data=path))
    assert done.holds and done.provenance.n == 48 and done.provenance.settings["heads"] == ["L2.H1"]


def test_input_that_cannot_work_is_one_line(world, model, tmp_path):
    path = tmp_path / "facts.jsonl"
    for setup in (Setup(quick=True, model=model), Setup(quick=True, data=path)):
        with pytest.raises(InputError, match="--model and --data together"):
            reproduce(setup)
    for change, says in (
        ({"target_new": " blue so"}, "does not hold its target_new"),
        ({"target_true": "purple"}, "no word that .* tokenizer knows"),
    ):
        path.write_text(json.dumps({**rows(world, 1)[0], **change}), encoding="utf-8")
        with pytest.raises((DataError, InputError), match=says):
            reproduce(Setup(quick=True, model=model, data=path))
