"""Attribution patching: a slope of exact patching, exact where the model is soft, flagged where saturated, silent on nulls."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.attribution.attribution_patching import attribution_patching
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.model.metric import logit_diff
from conceptlab.results import Scores
from tests.find.planted_runs import metric_of, model_of, world
from tests.model.roughened import CLEAN, CORRUPTED, difference, rough

SEEDS = (5, 6, 7)


def scored(name, corruption, *, null=False, seed=5, **options) -> Scores:
    prompts = world(name, null=null, seed=seed).prompts
    metric = metric_of(name, corruption, null=null, seed=seed)
    return attribution_patching(
        model_of(name, null=null, seed=seed), prompts["clean"], prompts[corruption], metric, **options
    )


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize(("site", "by"), [("resid_pre", "position"), ("z", "head_position"), ("mlp_post", "neuron")])
def test_it_is_the_slope_of_exact_patching(site, by, direction):
    """A tiny part of each change, patched exactly, moves the metric by that part of the estimate."""
    model, metric = rough("llama"), difference()
    found = attribution_patching(
        model, CLEAN, CORRUPTED, metric, site=site, by=by, direction=direction, n_exact=0, n_random=2
    )
    base, donor = (CLEAN, CORRUPTED) if direction == "noising" else (CORRUPTED, CLEAN)
    ends = [metric.of(_logits(model, batch), torch.arange(2)) for batch in (CLEAN, CORRUPTED)]
    gap = float((ends[0] - ends[1]).double().mean())
    values = [model.capture(batch, site, positions="all")[site] for batch in (base, donor)]
    score = found["score"].values.reshape(len(model.layers_with(site)), -1)
    layer, step = 1, 1e-2
    for cell in np.argsort(-np.abs(score[layer]))[:3]:
        slope = _slope(model, metric, base, site, by, layer, int(cell), values, step)
        want = (-slope if direction == "noising" else slope) / gap
        assert score[layer, cell] == pytest.approx(want, rel=0.05, abs=2e-3)


def _logits(model, batch):
    full = model.logits(batch)
    rows = torch.arange(len(batch))
    picked = torch.stack([torch.tensor([20, 30]), torch.tensor([40, 50])], 1)
    return full.gather(1, picked) if full.dim() == 2 else full[rows, -1].gather(1, picked)


def _slope(model, metric, base, site, by, layer, cell, values, step):
    from conceptlab.model.sweep import sweep
    from conceptlab.results import Edit, Site

    ours, theirs = (v[:, layer].unflatten(0, (2, 5)) for v in values)
    unit, at = ((), cell) if by == "position" else (((cell,), None) if by == "neuron" else ((cell // 5,), cell % 5))
    edits = []
    for sign in (1, -1):
        moved = ours + sign * step * (theirs - ours)
        moved = moved if not unit else moved[:, :, unit[0] : unit[0] + 1]
        where = "all" if at is None else (at,)
        moved = moved.flatten(0, 1) if at is None else moved[:, at]
        edits.append(Edit(Site(site, layer, unit), "set", moved, positions=where))
    up, down = sweep(model, base, edits, metric).values.mean(1)
    return (up - down) / (2 * step)


def test_soft_heads_have_their_exact_effects():
    found = scored("soft", "key", site="z", by="head")
    record = found.provenance.settings["calibration"]
    assert not record["flagged"] and record["pearson"] > 0.95
    tested = np.isfinite(found["exact"].values)
    prompts = world("soft").prompts
    exact = activation_patching(
        model_of("soft"), prompts["clean"], prompts["key"], metric_of("soft", "key"), site="z", by="head", control=False
    )["score"].values
    np.testing.assert_allclose(found["exact"].values[tested], exact[tested], atol=1e-5)
    causal = (found["q"].values <= 0.05) & (np.abs(found["score"].values) >= 0.05)
    assert set(zip(*np.nonzero(causal), strict=True)) == {(0, 0), (1, 0)}
    assert (found["low"] <= found["score"]).all() and (found["score"] <= found["high"]).all()


def test_the_name_movers_show_and_saturation_is_said():
    found = scored("ioi", "swapped", site="z", by="head")
    score = found["score"].values
    assert score[2, 0] == pytest.approx(1.429, abs=0.05) and score[2, 1] == pytest.approx(-0.429, abs=0.05)
    assert found["exact"].values[0, 0] == pytest.approx(1.0, abs=0.01)  # exact patching sees what gradients cannot
    assert abs(score[0, 0]) < 0.5
    assert found.provenance.settings["calibration"]["flagged"] or found.provenance.settings["calibration"]["far"] > 0
    assert any("saturated" in warning for warning in found.provenance.warnings)
    stream = scored("ioi", "swapped", site="resid_pre", by="position", n_exact=6)
    assert stream["score"].dims == ("layer", "position") and np.isfinite(stream["exact"].values).sum() == 12


def test_null_twins_have_nothing():
    found = []
    for name, corruption in (("induction", "key"), ("ioi", "swapped")):
        for seed in SEEDS:
            try:
                scores = scored(name, corruption, null=True, seed=seed, site="z", by="head", n_exact=0)
            except InputError as error:  # both texts score alike: nothing to explain
                assert "score the same" in str(error)
                continue
            found.append(bool(((scores["q"].values <= 0.05) & (np.abs(scores["score"].values) >= 0.05)).any()))
            assert found[-1] <= (not scores.provenance.warnings)
    assert sum(found) <= 1


def test_wrong_input_is_one_clear_line():
    model, metric = rough("llama"), difference()
    with pytest.raises(InputError, match="by='head' needs a site of head or kv_head kind"):
        attribution_patching(model, CLEAN, CORRUPTED, metric, site="resid_pre", by="head")
    with pytest.raises(InputError, match="is not known; by is one of"):
        attribution_patching(model, CLEAN, CORRUPTED, metric, by="edge")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="score the same"):
        attribution_patching(model, CLEAN, CLEAN, metric)
    with pytest.raises(InputError, match="memory budget"):
        attribution_patching(model, CLEAN, CORRUPTED, metric, budget_bytes=100)
    with pytest.raises(InputError, match="share their first token"):
        attribution_patching(model, CLEAN, CORRUPTED, logit_diff([1, 2], [1, 3]))
