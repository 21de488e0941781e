"""retrieval-heads: holds on the planted world, on a user's model and file, and not where everything is known by heart."""

import json
import math

import pytest

from conceptlab.errors import InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.retrieval_heads import KNOWN, MASKED, TWIN, on_world, reproduce
from conceptlab.worlds.haystack import haystack, needles_of
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=31)
    assert done.holds and len(done.findings) == 6 and not done.notes
    found = {f.name: f for f in done.findings}
    assert found[MASKED].value >= 0.5 and found[MASKED].control <= 0.05
    assert found[KNOWN].value == 0 and found[TWIN].value <= 0.05
    assert done.provenance.settings["heads"] == ["L3.H0", "L3.H1", "L4.H0", "L5.H0"]
    assert set(done.results) == {"heads", "masked", "known by heart", "accuracy"}


@pytest.mark.parametrize("seed", [32, 33])
def test_the_null_world_does_not_hold(seed):
    done = on_world(haystack(n_needles=12, seed=seed, null=True), seed=seed)
    found = {f.name: f for f in done.findings}
    assert not done.holds and math.isnan(found[MASKED].value) and found[MASKED].name in done.notes[0]
    assert done.provenance.settings["heads"] == []


def test_a_users_model_and_file_run(tmp_path):
    world = haystack(n_needles=8, seed=34)
    model, path = load_model(world.model, tokenizer=world.tokenizer), tmp_path / "needles.json"
    filler = world.prompts["filler"][0]
    rows = [
        {"needle": n.needle, "question": n.question, "answer": n.answer, "filler": filler} for n in needles_of(world)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=model, data=path))
    found = {f.name: f for f in done.findings}
    assert found[MASKED].holds and done.provenance.n == 8
    assert done.provenance.settings["heads"] == ["L3.H0", "L3.H1", "L4.H0"]
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, model=model))
