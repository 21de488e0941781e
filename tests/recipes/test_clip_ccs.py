"""clip-ccs: holds on the dual encoder written by hand, takes a user's contributions, and not where heads write anything."""

import numpy as np
import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.clip_ccs import BIAS, CCS, HIGH, LOW, on_world, reproduce
from conceptlab.worlds.scene_heads import scene_heads


@pytest.mark.parametrize("seed", [91, 92])
def test_the_quick_form_holds_beside_its_controls(seed):
    done = reproduce(Setup(quick=True, seed=seed))
    assert done.holds and len(done.findings) == 5 and not done.notes
    found = {f.name: f for f in done.findings}
    assert found[CCS].value == 1 and found[HIGH].value >= 0.3 and found[HIGH].control <= 0.05
    assert abs(found[LOW].value) <= 0.05 and found[BIAS].value >= 0.5


def test_the_null_world_does_not_hold():
    done = on_world(scene_heads(n_scenes=100, seed=93, null=True), seed=93)
    held = {f.name: f.holds for f in done.findings}
    assert not held[CCS] and not held[HIGH] and not held[BIAS] and done.provenance.settings["most consistent"] == []


def test_a_users_contributions_are_scored(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "heads.npz"
    heads, texts = rng.normal(size=(40, 2, 3, 16)), rng.normal(size=(20, 16))
    concepts = np.array(["a", "b"] * 10)
    np.savez(path, contributions=heads, texts=texts, concepts=concepts)
    done = reproduce(Setup(quick=True, data=path))
    assert len(done.findings) == 1 and done.provenance.n == 40 and "not pruned" in done.notes[0]
    np.savez(path, contributions=heads, texts=texts)
    with pytest.raises(DataError, match="no array 'concepts'"):
        reproduce(Setup(quick=True, data=path))
    np.savez(path, contributions=heads.astype(int), texts=texts, concepts=concepts)
    with pytest.raises(DataError, match="floating-point"):
        reproduce(Setup(quick=True, data=path))
    path.write_text("no archive", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        reproduce(Setup(quick=True, data=path))
    world = scene_heads(n_scenes=10, seed=0)
    with pytest.raises(InputError, match="takes no --model"):
        reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer)))
