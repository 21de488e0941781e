"""head-pursuit: holds on the planted world, on a user's model and file, and not where heads write anything."""

import json

import pytest

from conceptlab.errors import InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.head_pursuit import AREA, AWAY, MORE, OTHER, on_world, reproduce
from conceptlab.worlds.speaking_heads import answers_of, speaking_heads
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=51)
    assert done.holds and len(done.findings) == 6 and not done.notes
    found = {f.name: f for f in done.findings}
    assert found[AWAY].value >= 0.8 and found[AWAY].control <= 0.05
    assert found[OTHER].value <= 0.05 and found[MORE].value >= 0.5
    assert done.provenance.settings["heads"]["animal"] in (["L2.H1", "L3.H1"], ["L3.H1", "L2.H1"])


@pytest.mark.parametrize("seed", [52, 53])
def test_the_null_world_does_not_hold(seed):
    done = on_world(speaking_heads(n_prompts=90, seed=seed, null=True), seed=seed)
    held = {f.name: f.holds for f in done.findings}
    assert not done.holds and not held[AREA] and not held[AWAY] and not held[OTHER]
    assert all(not heads for heads in done.provenance.settings["heads"].values())


def test_a_users_model_and_file_run(tmp_path):
    world = speaking_heads(n_prompts=90, seed=54)
    model, path = load_model(world.model, tokenizer=world.tokenizer), tmp_path / "rows.json"
    rows = [{"text": row.text, "answer": row.answer, "concept": row.concept} for row in answers_of(world)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=model, data=path))
    assert done.holds and done.provenance.n == 90 and len(done.findings) == 3
    path.write_text(json.dumps(rows[::3]), encoding="utf-8")
    with pytest.raises(InputError, match="all of the concept 'colour'"):
        reproduce(Setup(quick=True, model=model, data=path))
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, model=model))
