"""Planted activations: what the constructions promise, by the simplest statistic, and silence in their null twins."""

import numpy as np
import pytest
import torch

from conceptlab.worlds.activations import depth_activations, typed_activations, unit_activations


def mean_difference_accuracy(features, labels, train):
    """Classify by the midpoint between the class means of the training rows; accuracy on the others."""
    x, y = features.numpy(), labels
    high, low = x[train & (y == 1)].mean(0), x[train & (y == 0)].mean(0)
    found = (x[~train] - (high + low) / 2) @ (high - low) > 0
    return float((found == (y[~train] == 1)).mean())


def test_the_layer_where_the_classes_part():
    planted = depth_activations()
    train = np.arange(2000) < 1200
    found = [mean_difference_accuracy(planted.features[:, layer], planted.labels, train) for layer in range(12)]
    assert max(found[:5]) < 0.56
    assert all(abs(score - planted.truth["accuracy"]) < 0.04 for score in found[5:])
    assert planted.truth["accuracy"] == pytest.approx(0.885, abs=0.001)


def test_depth_null_is_chance_everywhere():
    planted = depth_activations(null=True)
    train = np.arange(2000) < 1200
    found = [mean_difference_accuracy(planted.features[:, layer], planted.labels, train) for layer in range(12)]
    assert max(found) < 0.56 and planted.truth["appears_at"] is None


def test_depth_below_the_layer_is_its_null_twin():
    assert torch.equal(depth_activations().features[:, :5], depth_activations(null=True).features[:, :5])


def test_a_layer_outside_is_refused():
    with pytest.raises(ValueError, match="the layers are 0 to 11"):
        depth_activations(appears_at=12)


def control_labels(planted, seed):
    return np.random.default_rng(seed).integers(0, 2, planted.types.max() + 1)[planted.types]


def linear_accuracy(planted, labels):
    """Least squares on the training rows, accuracy on the others."""
    x = np.column_stack([planted.features.numpy(), np.ones(len(labels))])
    weights = np.linalg.lstsq(x[planted.train], 2.0 * labels[planted.train] - 1, rcond=None)[0]
    return float(((x[~planted.train] @ weights > 0) == (labels[~planted.train] == 1)).mean())


def test_typed_examples_have_a_task_and_a_control_that_is_harder():
    planted = typed_activations()
    assert len(planted.types) == 6000 and planted.train.sum() == 4000 and len(set(planted.types)) == 400
    assert set(planted.types[planted.train]) == set(planted.types[~planted.train])
    control = np.mean([linear_accuracy(planted, control_labels(planted, seed)) for seed in range(5)])
    assert linear_accuracy(planted, planted.labels) == pytest.approx(planted.truth["task_accuracy"], abs=0.01)
    assert control == pytest.approx(planted.truth["control_accuracy_linear"], abs=0.03)


def test_typed_null_has_no_task():
    planted = typed_activations(null=True)
    assert linear_accuracy(planted, planted.labels) == pytest.approx(0.5, abs=0.04)


def test_a_types_label_is_not_fixed():
    planted = typed_activations()
    shares = np.bincount(planted.types, planted.labels) / np.bincount(planted.types)
    assert shares.mean() == pytest.approx(0.5, abs=0.02) and (np.abs(shares - 0.5) < 0.45).all()


def auroc(planted):
    positive = torch.tensor(planted.labels == 1)
    on, off = planted.features[positive], planted.features[~positive]
    ranks = torch.cat([on, off]).argsort(0).argsort(0)[: len(on)].double() + 1
    return (ranks.sum(0) - len(on) * (len(on) + 1) / 2) / (len(on) * len(off))


@pytest.mark.parametrize(("sizes", "n_noise"), [((100, 100), 4000), ((200, 800), 1000)])
def test_planted_units_stand_out_on_both_sides(sizes, n_noise):
    planted = unit_activations(*sizes, n_noise=n_noise)
    scores = auroc(planted)
    assert planted.features.shape == (sum(sizes), n_noise + 20) and int(planted.labels.sum()) == sizes[0]
    best = scores.argsort(descending=True)
    assert sorted(best[:10].tolist()) == planted.truth["planted"]
    assert sorted(best[-10:].tolist()) == planted.truth["inverted"]
    assert float(scores[planted.truth["planted"]].mean()) == pytest.approx(planted.truth["auroc"], abs=0.01)


def test_units_null_has_none():
    planted = unit_activations(null=True)
    # the greatest of 4,020 units with a standard error of 0.041
    assert float((auroc(planted) - 0.5).abs().max()) < 0.2
    assert planted.truth == {"planted": [], "inverted": []}


@pytest.mark.parametrize("make", [depth_activations, typed_activations, unit_activations])
def test_a_seed_gives_one_set(make):
    first, again, other = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(first.features, again.features) and (first.labels == again.labels).all()
    assert not torch.equal(first.features, other.features)
    assert first.features.dtype == torch.float32 and first.truth == again.truth
