"""Accuracy over lengths and depths: full where heads copy, nothing where they are masked, and drawn as a map."""

import numpy as np

from conceptlab.measure.effects.needle_accuracy import needle_accuracy
from conceptlab.model import load_model
from conceptlab.plot import chart_of
from conceptlab.results import Edit
from conceptlab.worlds.haystack import haystack, needles_of

GRID = {"lengths": [24, 60], "depths": [0.0, 0.5, 1.0]}


def test_the_grid_falls_with_the_heads_that_copy():
    world = haystack(n_needles=6, seed=2)
    model = load_model(world.model, tokenizer=world.tokenizer)
    needles, filler = needles_of(world), world.prompts["filler"][0]
    found = needle_accuracy(model, needles, filler, **GRID)
    assert found["score"].shape == (2, 3) and (found["score"] == 1).all() and (found["control"] == 0).all()
    assert (found["q"] <= 0.05).all() and (found["low"] < 1).all()
    with model.edited(Edit("L3.H0,1.z", "zero"), Edit("L4.H0.z", "zero")):
        masked = needle_accuracy(model, needles, filler, **GRID)
    assert (masked["score"] == 0).all() and (masked["p"] == 1).all()
    chart = chart_of(found)
    assert chart is not None and len(chart.rows) == 6 and "at most 0%" in chart.says
    chart.altair()


def test_what_is_known_by_heart_needs_no_needle():
    world = haystack(n_needles=6, seed=2, null=True)
    model = load_model(world.model, tokenizer=world.tokenizer)
    found = needle_accuracy(model, needles_of(world), world.prompts["filler"][0], **GRID)
    assert np.array_equal(found["score"], found["control"]) and (found["q"] > 0.05).all()
