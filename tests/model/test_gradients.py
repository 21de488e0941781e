"""Gradients at every site equal finite differences on any architecture; the user's module is as it was."""

import pytest
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.model import Batch
from conceptlab.model.gradients import gradients, in_groups
from conceptlab.model.metric import along, kl_from, log_prob, logit_diff
from conceptlab.results import Edit, Site

from .roughened import CLEAN, KINDS, difference, rough
from .tiny import decoder

SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_pre", "mlp_post")


def places_of(model):
    found = [("embed", None)]
    return found + [(site, layer) for site in SITES for layer in model.layers_with(site)]


def measured(model, metric, batch, edit):
    with model.edited(edit):
        logits = model.logits(batch)
    return metric.of(logits.gather(1, metric.tokens), torch.arange(len(batch))).double()


def slope(model, metric, place, value, step):
    """Central difference along `step`, [row]."""
    at = [
        measured(model, metric, CLEAN, Edit(Site(*place), "set", (value + sign * step).flatten(0, 1), positions="all"))
        for sign in (1, -1)
    ]
    return (at[0] - at[1]) / 2


@pytest.mark.parametrize(
    "kind", [*KINDS, "granite", "bloom", "gptj"]
)  # granite scales what it adds; bloom writes in place
def test_gradients_are_slopes(kind):
    model, metric = rough(kind), difference()
    places = places_of(model)
    found = gradients(model, CLEAN, metric, places)
    logits = model.logits(CLEAN)
    torch.testing.assert_close(
        found.metric, metric.of(logits.gather(1, metric.tokens), torch.arange(2)).double(), atol=1e-4, rtol=0
    )
    size = 1e-3 if kind == "mixtral" else 1e-2  # a larger step changes the experts that are chosen
    off, generator = [], torch.Generator().manual_seed(0)
    for place in places:
        value = found.values[place]
        step = size * value.square().mean().sqrt() * torch.randn(value.shape, generator=generator)
        want, got = slope(model, metric, place, value, step), (found.grads[place] * step).flatten(1).sum(1)
        if float((want - got).norm()) > 0.02 * float(want.norm()) + 3e-6 * float(logits.abs().max()):
            off.append((place, want.tolist(), got.tolist()))
    assert len(places) > 15 and not off


def test_a_wrong_gradient_would_be_seen():
    model, metric = rough("llama"), difference()
    found = gradients(model, CLEAN, metric, [("z", 0)])
    value = found.values["z", 0]
    step = 1e-2 * value.square().mean().sqrt() * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    want, wrong = slope(model, metric, ("z", 0), value, step), (found.grads["z", 0].flip(2) * step).flatten(1).sum(1)
    assert float((want - wrong).norm()) > 0.1 * float(want.norm())


@pytest.mark.parametrize("frozen", [True, False])
def test_nothing_is_left_on_the_module(frozen):
    model = decoder("llama")
    model.module.requires_grad_(not frozen)
    before = {name: p.clone() for name, p in model.module.named_parameters()}
    plain = model.logits(CLEAN)
    found = gradients(model, CLEAN, difference(), places_of(model))
    assert all(not g.requires_grad and g.grad_fn is None for g in [*found.grads.values(), *found.values.values()])
    assert all(float(g.abs().sum()) > 0 for g in found.grads.values())
    for name, parameter in model.module.named_parameters():
        assert parameter.grad is None and parameter.requires_grad is not frozen and torch.equal(parameter, before[name])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    assert torch.equal(model.logits(CLEAN), plain) and torch.is_grad_enabled()
    with torch.no_grad():
        again = gradients(model, CLEAN, difference(), [("embed", None)])
    assert torch.equal(again.grads["embed", None], found.grads["embed", None])
    model.module.requires_grad_(True)


def test_metrics_of_the_vocabulary_and_of_a_site():
    model = rough("gpt2")
    whole = gradients(model, CLEAN, log_prob([20, 30]), [("embed", None)])
    assert float(whole.metric.max()) < 0 and float(whole.grads["embed", None].abs().max()) > 0
    still = gradients(model, CLEAN, kl_from(model.logits(CLEAN)), [("embed", None)])
    assert float(still.grads["embed", None].abs().max()) < 1e-5  # a divergence has its least value at its own run
    seen = gradients(
        model, CLEAN, along("L0.resid_post", torch.ones(model.d_model)), [("z", 0), ("z", 1), ("resid_post", 0)]
    )
    assert (
        float(seen.grads["z", 0].abs().max()) > 0 and float(seen.grads["z", 1].abs().max()) == 0
    )  # nothing reads what lies above
    assert torch.equal(seen.grads["resid_post", 0][:, -1], torch.ones(2, model.d_model))


def test_a_given_stream_takes_the_place_of_the_embedding():
    model = rough("llama")
    plain = gradients(model, CLEAN, difference(), [("embed", None), ("z", 1)])
    again = gradients(model, CLEAN, difference(), [("embed", None), ("z", 1)], embed=plain.values["embed", None])
    torch.testing.assert_close(again.grads["z", 1], plain.grads["z", 1])
    other = gradients(model, CLEAN, difference(), [("z", 1)], embed=2 * plain.values["embed", None])
    assert float((other.metric - plain.metric).abs().max()) > 1e-3


def test_what_cannot_be_is_said():
    model = rough("llama")
    with pytest.raises(InputError, match="5 to 6 tokens; give rows of one length"):
        gradients(model, Batch((*CLEAN.ids, (1, 2, 3, 4, 5, 6))), difference(), [("embed", None)])
    with pytest.raises(InputError, match="the metric is for 1 rows"):
        gradients(model, CLEAN, logit_diff([20], [30]), [("embed", None)])
    with pytest.raises(SiteError, match="layers 0 to 1"):
        gradients(model, CLEAN, difference(), [("z", 7)])
    with pytest.raises(InputError, match="too small"):
        in_groups(model, CLEAN, 100, per_token=0)
    ragged = Batch((*CLEAN.ids, (1, 2, 3)))
    assert sorted(row for group in in_groups(model, ragged, None, per_token=0) for row in group) == [0, 1, 2]
