"""cot-mechanism: holds on ontology worlds of any rift, runs on a user's file, and does not hold where nothing is planted."""

import json

import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.cot_mechanism import on_world, reproduce
from conceptlab.worlds.ontology import ontology
from tests.recipes.findings import quick_form


def rows(world):
    names = ("prompt", "answer", "noise", "noise_answer")
    cells = zip(
        *(world.prompts["clean"], world.answers["clean"], world.prompts["noise"], world.answers["noise"]), strict=True
    )
    return [dict(zip(names, row, strict=True)) for row in cells]


@pytest.fixture(scope="module")
def world():
    return ontology(n_prompts=64, seed=5)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=5)
    assert done.holds and all(f.holds for f in done.findings) and len(done.findings) == 6 and not done.notes
    found = {f.name: f for f in done.findings}
    assert found["layers between the rift and where the answer overtakes the prior"].value <= 1
    assert found["answer-writing heads at or after the rift"].value == 1.0
    one, every = (
        found[f"{name} answer-writing head{s}"]
        for name, s in (("largest cost of losing one", ""), ("cost of losing all", "s"))
    )
    assert one.value < 10 < 50 < every.value and max(one.control, every.control) <= 5
    assert done.provenance.settings["rift layer"] == 4


@pytest.mark.parametrize(("seed", "rift"), [(5, 3), (6, 6)])
def test_the_rift_moves_with_the_planted_one(seed, rift):
    done = on_world(ontology(n_prompts=64, seed=seed, rift=rift), seed=seed)
    assert done.holds and abs(done.provenance.settings["rift layer"] - rift) <= 1
    assert set(done.provenance.settings["writers"]) == {f"L{rift}.H0", f"L{rift + 1}.H1"}


@pytest.mark.parametrize("seed", [5, 6])
def test_the_null_world_does_not_hold(seed):
    done = on_world(ontology(n_prompts=64, seed=seed, null=True), seed=seed)
    assert not done.holds and not any(f.holds for f in done.findings)
    assert "does not overtake" in done.notes[0]


def test_a_users_model_and_file_run(world, model, tmp_path):
    path = tmp_path / "derived.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(world))), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=model, data=path))
    assert done.holds and done.provenance.n == 64


def test_input_that_cannot_work_is_one_line(world, model, tmp_path):
    path, made = tmp_path / "derived.json", rows(world)[:8]
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, model=model))
    for change, says in (
        ({"noise": "is is is . Alex seems"}, "row 1: text and other text have different numbers of tokens"),
        ({"noise_answer": made[1]["answer"]}, "row 1: .* share their first token"),
        ({"prompt": "Alex is bright"}, "record 2: the prompt .* has no full stop"),
    ):
        path.write_text(json.dumps([made[0], {**made[1], **change}, *made[2:]]), encoding="utf-8")
        with pytest.raises((DataError, InputError), match=says):
            reproduce(Setup(quick=True, model=model, data=path))
