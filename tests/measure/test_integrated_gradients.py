"""Integrated gradients: complete, equal to a loop over steps, the planted neurons and no other, nothing in the null twin."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.attribution.integrated_gradients import integrated_gradients
from conceptlab.model import load_model
from conceptlab.model.metric import along, logit
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Site
from conceptlab.worlds.planted_neurons import planted_neurons
from tests.model.roughened import CLEAN, difference, rough


@cache
def world(null=False, seed=0):
    made = planted_neurons(null=null, seed=seed)
    return made, load_model(made.model, tokenizer=made.tokenizer)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_steps_at_once_are_steps_one_by_one(kind):
    """The gradient by finite differences of each scaled run, one step after the other."""
    model, metric, steps, layer = rough(kind), difference(), 3, 1
    found = integrated_gradients(model, CLEAN, metric, layers=[layer], steps=steps, n_exact=0, n_random=2)
    values = model.capture(CLEAN, "mlp_post", layers=[layer], positions="last").at("mlp_post", layer)
    best = np.argsort(-np.abs(found["score"].values[0]))[:3]
    for neuron in best:
        slopes = []
        for k in range(steps):
            pair = []
            for sign in (1, -1):
                moved = values * (k + 0.5) / steps
                moved[:, neuron] += sign * 1e-2
                site = Site("mlp_post", layer, tuple(range(values.shape[1])))
                pair.append(Edit(site, "set", moved, positions="last"))
            up, down = sweep(model, CLEAN, pair, metric).values
            slopes.append((up - down) / 2e-2)
        want = float((np.mean(slopes, 0) * values[:, neuron].double().numpy()).mean())
        assert found["score"].values[0, neuron] == pytest.approx(want, rel=0.03, abs=1e-3)


def test_attributions_of_a_layer_add_up():
    model, metric = rough("llama"), difference()
    fine = integrated_gradients(model, CLEAN, metric, steps=64, n_exact=0)
    assert (fine["gap"].values < 0.02).all()
    np.testing.assert_allclose(
        fine["score"].values.sum(1), fine["change"].values, atol=0.02 * np.abs(fine["change"].values).max()
    )
    zero = Edit(Site("mlp_post", 0, tuple(range(model.d_mlp))), "zero", positions="last")
    assert fine["change"].values[0] == pytest.approx(-sweep(model, CLEAN, [zero], metric).change.mean(), rel=1e-4)


def test_the_planted_neuron_of_each_family_stands_out():
    planted, model = world(seed=31)
    hits = []
    for name in list(planted.truth["neurons"])[:4]:
        token = planted.truth["neurons"][name]["token"]
        texts = planted.prompts[name]
        ids = [model.tokenizer.convert_tokens_to_ids(token)] * len(texts)
        found = integrated_gradients(model, texts, logit(ids), steps=10, n_exact=3)
        layer, neuron = np.unravel_index(np.abs(found["score"].values).argmax(), found["score"].shape)
        hits.append(f"L{layer}.N{neuron}" == name)
        assert found["p"].values[layer, neuron] <= 0.001  # few rows: q over 384 neurons cannot be small
        record = found.provenance.settings["calibration"]
        assert record["lost"] > 5 * record["lost_beside"]
    assert all(hits)


def test_the_null_twin_is_silent():
    planted, model = world(null=True, seed=31)
    texts = planted.prompts["plain"]
    found = integrated_gradients(model, texts, logit([20] * len(texts)), steps=10, n_exact=0)
    assert not ((found["q"].values <= 0.05) & (np.abs(found["score"].values) >= 0.1)).any()


def test_wrong_input_is_one_clear_line():
    model, metric = rough("gpt2"), difference()
    with pytest.raises(InputError, match="at least 1 step"):
        integrated_gradients(model, CLEAN, metric, steps=0)
    with pytest.raises(InputError, match="must read the logits at the last position"):
        integrated_gradients(model, CLEAN, along("L1.resid_post", torch.ones(model.d_model)))
