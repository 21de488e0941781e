"""clip-ccs: holds on the dual encoder written by hand, takes a user's contributions, and not where heads write anything; on a
trained image-text model every finding is measured, and an untrained one is said not to do its task."""

import numpy as np
import pytest
import torch

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup, clip_ccs
from conceptlab.recipes.clip_ccs import BESIDE, BIAS, CCS, DOES, HIGH, LOW, SPEAK, on_trained, on_world, reproduce
from conceptlab.worlds import shape_pictures as shapes
from conceptlab.worlds.scene_heads import scene_heads
from conceptlab.worlds.trained_dual_encoder import trained_dual_encoder
from tests.recipes.findings import quick_form


@pytest.mark.parametrize("seed", [91, 92])
def test_the_quick_form_holds_beside_its_controls(seed):
    done = quick_form(reproduce, seed=seed)
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


def test_a_little_training_is_better_than_none(tmp_path):
    """Forty steps name the grounds, which no untrained model does; nothing else is asked of so short a training."""
    found = {}
    for steps in (1, 40):
        clip = trained_dual_encoder(seed=4, steps=steps, cache=tmp_path).model
        done = on_trained(clip, n=120, n_random=3, seed=4)
        found[steps] = {f.name: f for f in done.findings}
        assert len(done.findings) == 7 and done.provenance.n == 120
    before, after = (found[steps][DOES] for steps in found)
    assert before.low <= before.control and not before.holds  # luck is within what an untrained model does
    assert after.value > after.control + 0.05 and after.low > before.value
    assert all(f.holds is not None for f in found[40].values() if f.name in (HIGH, LOW, BESIDE, BIAS))
    assert found[40][SPEAK].holds is None and 0 < found[40][SPEAK].control < 1


def test_names_and_gaps_are_read_from_the_right_texts():
    texts = np.eye(len(shapes.TEXTS), dtype=np.float32)
    scenes = shapes.draw_scenes(50, np.random.default_rng(0))
    words = [[shapes.TEXTS.index(w[scenes.shown[k][i]]) for k, w in shapes.KINDS.items()] for i in range(50)]
    perfect = torch.from_numpy(np.stack([texts[row].sum(0) for row in words]))
    assert (clip_ccs._named(perfect, torch.from_numpy(texts), scenes.shown) == 1).all()
    wrong = {kind: (shown + 1) % len(shapes.KINDS[kind]) for kind, shown in scenes.shown.items()}
    assert (clip_ccs._named(perfect, torch.from_numpy(texts), wrong) == 0).all()
    men = scenes.shown["person"] == 0
    hammer, brush = (shapes.TEXTS.index(word) for word in ("hammer", "brush"))
    biased = torch.from_numpy(texts[np.where(men, hammer, brush)])
    assert clip_ccs._sexed(biased, torch.from_numpy(texts), men).mean() == pytest.approx(2 / 3, abs=1e-5)
    assert clip_ccs._sexed(
        torch.from_numpy(texts[[hammer] * 50]), torch.from_numpy(texts), men
    ).mean() == pytest.approx(0, abs=1e-5)


def test_findings_over_seeds_hold_where_all_do():
    clip = [on_world(scene_heads(n_scenes=60, seed=seed), seed=seed) for seed in (91, 92)]
    found = clip_ccs._over_seeds(clip)
    assert all(f.holds for f in found) and all(f.name.startswith(clip_ccs.TRAINED) for f in found)
    twin = on_world(scene_heads(n_scenes=60, seed=93), seed=93)
    null = on_world(scene_heads(n_scenes=60, seed=93, null=True), seed=93)
    both = {f.name.removeprefix(clip_ccs.TRAINED): f for f in clip_ccs._over_seeds([twin, null])}
    assert not both[CCS].holds
