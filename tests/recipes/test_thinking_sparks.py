"""thinking-sparks: holds on checkpoints written by hand, on a user's folder, and not where post-training did nothing."""

import json

import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.thinking_sparks import LOST, OLD, SAME, on_world, reproduce
from conceptlab.worlds.post_trained import pairs_of, post_trained
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=71)
    assert done.holds and len(done.findings) == 6 and not done.notes
    found = {f.name: f for f in done.findings}
    assert found[LOST].value >= 0.3 and found[LOST].control <= 0.05
    assert found[OLD].value == 0 and found[SAME].value == 0
    assert done.provenance.settings["emergent"] == ["L1.H1"]


@pytest.mark.parametrize("seed", [72, 73])
def test_training_that_does_nothing_makes_no_head(seed):
    done = on_world(skill=0.0, seed=seed)
    assert not done.holds and done.provenance.settings["emergent"] == []
    assert any("no head emerged" in note for note in done.notes)
    assert {f.name: f.holds for f in done.findings}[SAME]


def test_a_users_folder_runs(tmp_path):
    base, post = (post_trained(skill=skill, n_prompts=48, seed=74) for skill in (0.0, 1.0))
    base.save(tmp_path / "base")
    for name, task in (("new", "place"), ("old", "word")):
        pairs = pairs_of(post, task)
        rows = zip(pairs.clean, pairs.corrupted, pairs.answer, pairs.distractor, strict=True)
        keys = ("clean", "corrupted", "answer", "distractor")
        (tmp_path / f"{name}.json").write_text(
            json.dumps([dict(zip(keys, row, strict=True)) for row in rows]), encoding="utf-8"
        )
    model = load_model(post.model, tokenizer=post.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=tmp_path))
    assert done.holds and done.provenance.settings["emergent"] == ["L1.H1"]
    (tmp_path / "old.json").unlink()
    with pytest.raises(DataError, match="needs base/"):
        reproduce(Setup(quick=True, model=model, data=tmp_path))
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, model=model))
