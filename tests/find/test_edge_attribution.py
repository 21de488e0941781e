"""Edge attribution: equal to plain loops, right where the model is nearly linear, wrong in the known way where it saturates."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.find.circuits.edge_attribution import edge_attribution
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.measure.circuits.recovery import circuit_recovery
from conceptlab.model.edge_gradients import receiver_gradients
from conceptlab.model.edge_graph import graph_of, record_pieces
from conceptlab.model.metric import kl_from
from tests.model.roughened import CLEAN, CORRUPTED, difference, rough

from .planted_runs import metric_of, model_of, prepared, true_edges, world

ARCHITECTURES = [
    "gpt2",
    "llama",
    "gpt_neox",
    "gemma2",
]  # learned positions, shared keys, parallel blocks, norms of the sublayer's own


def scored(method, name, corruption="key", null=False, seed=5, **options):
    prompts = world(name, null=null, seed=seed).prompts
    model, metric = model_of(name, null=null, seed=seed), metric_of(name, corruption, null=null, seed=seed)
    return method(model, prompts["clean"], prompts[corruption], metric, **options)


def effects(circuit):
    return dict(zip(circuit.edge_names(), circuit.weights, strict=True))


def plain_scores(model, points):
    """Every edge by a loop over edges and points: what the sender wrote otherwise, times the receiver's gradient there."""
    metric, shape = difference(), graph_of(model)
    clean, corrupted = (record_pieces(model, batch, shape) for batch in (CLEAN, CORRUPTED))
    written = [run.written() for run in (clean, corrupted)]
    ours, theirs = clean.run.streams[0].float(), corrupted.run.streams[0].float()
    grads = 0.0
    for share in points:
        at = (theirs + share * (ours - theirs))[None]
        found = receiver_gradients(model, CLEAN, metric, shape, points=at, way="backward")
        grads = grads + torch.cat([layer for _, layer in found.layers()]) / len(points)
    gap = [model_metric.double().sum() for model_metric in _ends(model, metric, shape)]
    out = np.zeros(shape.n_edges)
    for edge in range(shape.n_edges):
        source, target = (int(i[0]) for i in shape.edges_of(np.array([edge])))
        change = written[1][source] - written[0][source]
        out[edge] = float((change * grads[target]).double().sum() / (gap[1] - gap[0]))
    return out


def _ends(model, metric, shape):
    return [receiver_gradients(model, batch, metric, shape).metric[0] for batch in (CLEAN, CORRUPTED)]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_all_edges_at_once_are_what_loops_give(kind):
    model, metric = rough(kind), difference()
    one = edge_attribution(model, CLEAN, CORRUPTED, metric, n_random=2)
    many = edge_attribution_ig(model, CLEAN, CORRUPTED, metric, steps=3, n_random=2)
    exact = kind != "gemma2"  # there a sender's part depends on the run's own scale, which loops take alike
    for found, points in ((one, [1.0]), (many, [1 / 6, 0.5, 5 / 6])):
        want = plain_scores(model, points)
        assert len(found) == len(want) == found.shape.n_edges
        scale = np.abs(want).max()
        np.testing.assert_allclose(found.weights, want, atol=(1e-4 if exact else 2e-3) * scale)


@pytest.mark.parametrize("corruption", ["key", "query"])
def test_soft_attention_is_scored_as_exact_patching_does(corruption):
    circuit = scored(edge_attribution, "soft", corruption, n_exact=12)
    run, metric = prepared("soft", corruption)
    exact = exact_edges(run, metric, n_random=0).weights
    assert np.corrcoef(circuit.weights, exact)[0, 1] > 0.95
    record = circuit.provenance.settings["calibration"]
    assert record["recall"] == 1.0 and not record["flagged"]
    kept = np.isfinite(circuit.exact)
    assert kept.sum() == 12
    np.testing.assert_allclose(circuit.exact[kept], exact[kept], atol=1e-6)


@pytest.mark.parametrize("corruption", ["key", "query"])
def test_saturated_attention_misleads_one_gradient_and_not_the_averaged_one(corruption):
    truth = true_edges("induction", corruption)
    plain = scored(edge_attribution, "induction", corruption, n_exact=8)
    through_scores = [edge for edge in truth if edge[1] != "logits" and not edge[1].startswith("L2")]
    assert all(abs(effects(plain)[edge]) < 0.1 for edge in through_scores if edge[1].startswith("L1"))
    assert plain.provenance.settings["calibration"]["flagged"] and "saturated" in " ".join(plain.provenance.warnings)
    averaged = scored(edge_attribution_ig, "induction", corruption, steps=30)
    assert all(effects(averaged)[edge] == pytest.approx(1.0, abs=0.05) for edge in truth)
    assert set(averaged.top(len(truth)).edge_names()) == truth
    found = averaged.select((averaged.q <= 0.05) & (np.abs(averaged.weights) >= 0.05))
    assert set(found.edge_names()) == truth
    recovered = circuit_recovery(found, truth, scored=averaged)
    assert (recovered["score"] == 1.0).all() and float(recovered["control"][0]) < 0.2 and (recovered["p"] < 0.05).all()
    assert averaged.provenance.settings["ig_gap"] < 0.05 and not averaged.provenance.warnings


def test_too_few_steps_are_said():
    circuit = scored(edge_attribution_ig, "induction", steps=1)
    assert circuit.provenance.settings["ig_gap"] > 0.05
    assert "use more steps" in " ".join(circuit.provenance.warnings)


def test_null_twins_have_no_edges():
    for method in (edge_attribution, edge_attribution_ig):
        found = []
        for name, corruption in (("induction", "key"), ("ioi", "swapped")):
            for seed in (5, 6, 7):
                circuit = scored(method, name, corruption, null=True, seed=seed)
                found.append(bool(((circuit.q <= 0.05) & (np.abs(circuit.weights) >= 0.05)).any()))
                assert found[-1] <= (not circuit.provenance.warnings)
        assert sum(found) <= 1  # each at 5 %


def test_wrong_input_is_one_clear_line():
    texts, metric = world("induction").prompts["clean"], metric_of("induction", "key")
    model = model_of("induction")
    with pytest.raises(InputError, match="clean and corrupted texts are the same"):
        edge_attribution(model, texts, texts, metric)
    with pytest.raises(InputError, match="is 0 on every clean row"):
        edge_attribution(model, texts, world("induction").prompts["key"], kl_from(model.logits(texts)))
    with pytest.raises(InputError, match="at least 1 step"):
        edge_attribution_ig(model, texts, world("induction").prompts["key"], metric, steps=0)
    with pytest.raises(InputError, match="memory budget"):
        edge_attribution(model, texts, world("induction").prompts["key"], metric, budget_bytes=1000)
