"""Heads, neurons and directions: what was planted is found, also turned round; on shuffled labels nothing is."""

import numpy as np
import pytest
import torch

from conceptlab.evidence import make_folds, permuted_labels
from conceptlab.find.directions.mean_difference import mean_difference, readout_spread
from conceptlab.find.heads.readable_heads import readable_heads
from conceptlab.find.neurons.readable_neurons import association, readable_neurons
from conceptlab.measure.probing.columns import Problem, choose_metric
from conceptlab.results import Provenance, Site
from conceptlab.worlds.activations import unit_activations

PROVENANCE = Provenance("units", 1, 0)


def problem_of(labels, kind="binary", draws=20) -> Problem:
    folds = make_folds(labels, None)
    shuffled = permuted_labels(labels, None, draws, 1, folds=folds)
    return Problem(np.concatenate([labels[None], shuffled]), folds, kind, choose_metric(labels, kind))


def found_units(units) -> set[tuple[int, int]]:
    table = units.table
    kept = table["q"].values <= 0.05
    return {(int(a), int(b)) for a, b in zip(table["layer"].values[kept], table["index"].values[kept], strict=True)}


@pytest.mark.parametrize(("positive", "negative"), [(100, 100), (200, 800)])
def test_planted_and_inverted_neurons_are_found(positive, negative):
    made = unit_activations(positive, negative, n_noise=1980)
    units = readable_neurons(made.features.unflatten(1, (4, 500)), problem_of(made.labels), (0, 2, 4, 5), PROVENANCE)
    truth = {((0, 2, 4, 5)[i // 500], i % 500) for i in (*made.truth["planted"], *made.truth["inverted"])}
    found = found_units(units)
    assert truth <= found and len(found - truth) <= 3  # at q 0.05 one in twenty may be noise
    assert {(s.layer, s.units[0]) for s in units.top(20)} == truth


@pytest.mark.parametrize("seed", range(3))
def test_no_neuron_is_found_on_shuffled_labels(seed):
    made = unit_activations(n_noise=1980, seed=seed)
    labels = np.random.default_rng(seed).permutation(made.labels)
    assert not found_units(readable_neurons(made.features[:, None], problem_of(labels), (0,), PROVENANCE))


def test_average_precision_alone_would_miss_the_inverted_ones():
    from sklearn.metrics import average_precision_score

    made = unit_activations(n_noise=480)
    precision = np.array([average_precision_score(made.labels, unit) for unit in made.features.T.numpy()])
    bar = np.delete(precision, made.truth["planted"] + made.truth["inverted"]).max()
    assert (precision[made.truth["planted"]] > bar).all() and (precision[made.truth["inverted"]] < bar).all()


def test_association_is_the_correlation_or_eta():
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(90, 7)) * 100 + 5).float()
    x[:, 6] = 3.0
    labels = np.arange(90) % 3
    x[:, 1] += torch.tensor(labels * 80.0)
    two = association(x, problem_of(labels % 2, draws=2))
    want = [abs(np.corrcoef(unit, labels % 2)[0, 1]) for unit in x[:, :6].T.numpy()]
    np.testing.assert_allclose(two[0, :6], want, atol=1e-5)
    assert float(two[0, 6]) == 0.0
    three = association(x, problem_of(labels, "classes", draws=2))
    live = x[:, :6].numpy()
    means = np.stack([live[labels == k].mean(0) for k in range(3)])
    want = (30 * ((means - means.mean(0)) ** 2).sum(0) / ((live - live.mean(0)) ** 2).sum(0)) ** 0.5
    np.testing.assert_allclose(three[0, :6], want, atol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "classes", "graded"])
def test_planted_heads_are_found_and_no_other(kind):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=240)
    labels = {"binary": (hidden > 0).astype(np.int64), "classes": np.digitize(hidden, [-0.5, 0.5]), "graded": hidden}
    z = torch.randn(240, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    code = torch.tensor(np.stack([np.sign(hidden), np.abs(hidden)], 1) if kind != "graded" else hidden[:, None])
    for layer, head in ((1, 2), (2, 7)):
        z[:, layer, head, : code.shape[1]] += 2 * code.float()
    units = readable_heads(z, problem_of(labels[kind], kind, draws=40), (0, 3, 5), PROVENANCE)
    assert {(3, 2), (5, 7)} <= found_units(units) and len(found_units(units)) <= 3
    assert {str(s) for s in units.top(2)} == {"L3.H2.z", "L5.H7.z"}
    shuffled = rng.permutation(labels[kind])
    assert not found_units(readable_heads(z, problem_of(shuffled, kind, draws=40), (0, 3, 5), PROVENANCE))


def test_a_direction_is_the_planted_one_and_separates():
    rng = np.random.default_rng(0)
    planted = rng.normal(size=64)
    planted /= np.linalg.norm(planted)
    labels = np.arange(400) % 2
    x = torch.tensor(rng.normal(size=(400, 64)) + 3 * (labels - 0.5)[:, None] * planted + 2).float()
    given = {"site": Site("resid_post", 1), "concept": "c", "provenance": PROVENANCE}
    found = mean_difference(x[:300], labels[:300], class_names=("no", "yes"), **given)
    assert float(found.vector @ torch.tensor(planted).float()) > 0.93
    assert float(found.class_points[1, 0] - found.class_points[0, 0]) == pytest.approx(3, abs=0.4)
    side = ((x[300:] - found.mean) @ found.vector).numpy()
    assert (side[labels[300:] == 1][:, None] > side[labels[300:] == 0]).mean() > 0.95
    # by rank among permutations, since those of one small sample spread widely
    null = []
    for _ in range(50):
        noise = mean_difference(x[:300], rng.permutation(labels[:300]), class_names=("no", "yes"), **given)
        away = ((x[300:] - noise.mean) @ noise.vector).numpy()
        null.append((away[labels[300:] == 1][:, None] > away[labels[300:] == 0]).mean())
    assert (side[labels[300:] == 1][:, None] > side[labels[300:] == 0]).mean() > max(null)
    assert readout_spread(x, found) == pytest.approx(((1.5) ** 2 + 1) ** 0.5, rel=0.1)


def test_directions_of_classes_and_of_graded_labels():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(4, 10)) * 4
    labels = rng.integers(0, 4, 200)
    x = torch.tensor(points[labels] + 0.1 * rng.normal(size=(200, 10))).float()
    given = {"site": Site("embed"), "concept": "c", "provenance": PROVENANCE}
    found = mean_difference(x, labels, class_names=tuple("abcd"), **given)
    assert found.rank == 3
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(3), atol=1e-5, rtol=0)
    back = found.mean + found.class_points @ found.basis
    torch.testing.assert_close(back, torch.tensor(points).float(), atol=0.1, rtol=0)
    value = rng.normal(size=200)
    x[:, 3] += torch.tensor(50 * value).float()
    graded = mean_difference(x, value, **given)
    assert float(graded.vector[3]) > 0.99 and graded.rank == 1
