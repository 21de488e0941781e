"""Pictures of shapes show what their labels say, captions name nothing else, and the small CLIP on them is kept and found again."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.worlds import trained_dual_encoder as dual
from conceptlab.worlds.shape_pictures import KINDS, MALE_TOOLS, captions, draw_scenes


def test_the_shapes_colour_is_in_the_picture_and_the_ground_around_it():
    scenes = draw_scenes(60, np.random.default_rng(0))
    pixels = (scenes.pixels.numpy() + 1) / 2
    ground = np.median(pixels.reshape(60, 3, -1), axis=2)
    for number in range(len(KINDS["ground"])):
        same = ground[scenes.shown["ground"] == number]
        assert same.std(0).max() < 0.03  # pictures of one ground have one median colour
    red = scenes.shown["colour"] == KINDS["colour"].index("red")
    redness = (pixels[:, 0] - pixels[:, 1:].max(1)).reshape(60, -1)
    assert ((redness > 0.6).sum(1) >= 6)[red].all()


def test_tools_follow_the_sex_as_often_as_asked():
    for usual, least, most in ((0.9, 0.86, 0.94), (0.5, 0.46, 0.54)):
        shown = draw_scenes(2000, np.random.default_rng(1), usual=usual).shown
        own = (shown["tool"] < MALE_TOOLS) == (shown["person"] == 0)
        assert least < own.mean() < most


def test_without_tools_none_is_drawn():
    a, b = (draw_scenes(20, np.random.default_rng(2), tools=tools).pixels for tools in (True, False))
    assert a.shape == b.shape == (20, 3, 24, 24)
    assert (a - b).abs().amax((1, 2, 3)).min() > 0.5 and (a - b).abs().mean() < 0.2


def test_captions_name_what_is_seen():
    scenes = draw_scenes(40, np.random.default_rng(3))
    kinds = {word: kind for kind, words in KINDS.items() for word in words}
    for i, words in enumerate(captions(scenes, np.random.default_rng(4))):
        assert words and len({kinds[word] for word in words}) == len(words)
        assert all(KINDS[kinds[word]][scenes.shown[kinds[word]][i]] == word for word in words)
    ids = dual.caption_ids([["red"], ["man", "saw"]])
    assert ids.shape == (2, dual.LONGEST) and ids[0, 2] == ids[1, 3] == dual.END and (ids[0, 3:] == 0).all()


def test_what_cannot_be_drawn_is_one_line():
    with pytest.raises(InputError, match="0 pictures with a usual tool in 0.5 of them cannot be drawn"):
        draw_scenes(0, np.random.default_rng(0))


def test_the_trained_model_is_kept_and_found_again(tmp_path):
    made = dual.trained_dual_encoder(seed=3, steps=2, cache=tmp_path)
    again = dual.trained_dual_encoder(seed=3, steps=2, cache=tmp_path)
    assert again.from_cache and not made.from_cache and type(again.model).__name__ == "CLIPModel"
    assert torch.equal(dual.text_embeddings(made.model), dual.text_embeddings(again.model))
    fresh = dual._fresh(3)
    assert not torch.equal(fresh.visual_projection.weight, made.model.visual_projection.weight)
