"""Scaled neurons of the last token, all layers at once, give what whole rows give layer by layer; other models go the plain way."""

import numpy as np
import pytest
import torch

from conceptlab.measure.attribution import integrated_gradients as method
from conceptlab.model import Batch, load_model
from conceptlab.model.metric import along, log_prob, logit_diff
from conceptlab.model.scaled_neurons import can_scale, scaled_runs
from conceptlab.worlds.planted_neurons import planted_neurons
from tests.model.roughened import CLEAN, rough

SHARES = [0.0, 0.25, 0.75, 1.0]


def cases():
    world = planted_neurons()
    yield "grouped keys", load_model(world.model, tokenizer=world.tokenizer)
    for kind in ("gpt2", "llama"):
        yield kind, rough(kind)


@pytest.mark.parametrize(("name", "model"), list(cases()))
@pytest.mark.parametrize("whole", [True, False])
def test_last_tokens_alone_are_whole_rows(name, model, whole):
    generator = torch.Generator().manual_seed(1)
    size = model.unembedding.shape[0]
    batch = Batch(tuple(map(tuple, torch.randint(3, size, (3, 7), generator=generator).tolist())))
    metric = log_prob([4, 5, 6, 7]) if whole else logit_diff([4, 5, 6, 7], [8, 9, 10, 11])
    assert can_scale(model, metric)
    layers = [model.n_layers - 1, 0]
    found = scaled_runs(model, batch, metric, layers, SHARES, rows=[3, 0, 2])
    for axis, layer in enumerate(layers):
        values, grad, ends = method._along(model, batch, metric, layer, SHARES, [3, 0, 2])
        assert np.allclose(found.values[axis], values, atol=1e-5)
        assert np.allclose(found.grads[axis, 1:-1].mean(0), grad, rtol=1e-3, atol=1e-5 * np.abs(grad).max())
        assert np.allclose(found.metric[axis, -1] - found.metric[axis, 0], ends, atol=1e-4)


def test_a_metric_of_a_site_and_models_that_cannot_be_packed_go_the_plain_way(monkeypatch):
    model = rough("llama")
    direction = torch.ones(model.d_model)
    assert not can_scale(model, along("L1.resid_post", direction))
    metric = logit_diff([4] * len(CLEAN), [5] * len(CLEAN))
    fast = method.row_attributions(model, CLEAN, metric, steps=4)
    before = model.forwards
    monkeypatch.setattr(method, "can_scale", lambda *_: False)
    plain = method.row_attributions(model, CLEAN, metric, steps=4)
    assert np.allclose(fast, plain, atol=1e-5 * np.abs(plain).max()) and model.forwards > before
