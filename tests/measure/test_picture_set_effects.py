"""Silencing heads of an image tower: the heads that write what is read lose it, others do not, and bad sets are one line."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.effects.picture_set_effects import picture_set_effects
from conceptlab.model.image_tower import ImageTower, joint_contributions
from conceptlab.results import Site
from conceptlab.worlds.trained_dual_encoder import _fresh


@pytest.fixture(scope="module")
def tower():
    """A tower whose last block's head 2 writes ten times as strongly, and whose MLP there is dead."""
    clip = _fresh(6).eval()
    last = clip.vision_model.encoder.layers[-1]
    with torch.no_grad():
        last.self_attn.out_proj.weight[:, 16:24] *= 30
        last.mlp.fc2.weight.zero_()
    return ImageTower.of(clip)


def pictures(n=24):
    return torch.randn(n, 3, 24, 24, generator=torch.Generator().manual_seed(3))


def test_the_head_that_writes_most_is_the_one_that_is_missed(tower):
    seen = pictures()
    heads = joint_contributions(tower, seen)[:, -1, 2]
    axis = torch.linalg.svd(heads - heads.mean(0), full_matrices=False)[2][0]
    sign = torch.sign((heads - heads.mean(0)) @ axis)

    def read(embedded):
        return (((embedded - embedded.mean(0)) @ axis) * sign).numpy()

    last = tower.model.n_layers - 1
    sets = {"it": [Site("z", last, (2,))], "another": [Site("z", last, (5,))]}
    found = picture_set_effects(tower, seen, sets, read, n_random=8, seed=0)
    it, another = (found.data.sel(set=name) for name in sets)
    assert it["score"] > 0.8 * found.data.attrs["clean"] and it["low"] > it["control_high"]
    assert abs(float(another["score"])) < 0.1 * found.data.attrs["clean"]
    assert np.allclose(found["losses"].sel(set="it").values.mean(), it["score"])
    same = picture_set_effects(tower, seen, sets, read, same_layers=True, n_random=4, seed=0)
    assert float(same.data.sel(set="it")["score"]) == pytest.approx(float(it["score"]))
    clean = tower.embedded(seen)
    assert torch.equal(clean, tower.embedded(seen))  # nothing stays silenced


def test_sets_that_cannot_be_silenced_are_one_line(tower):
    for sets in ({}, {"none": []}):
        with pytest.raises(InputError, match="no sets of heads were named"):
            picture_set_effects(tower, pictures(4), sets, lambda e: e[:, 0].numpy())
    with pytest.raises(InputError, match="heads 0 to 7"):
        picture_set_effects(tower, pictures(4), {"a": [Site("z", 0, (9,))]}, lambda e: e[:, 0].numpy())
