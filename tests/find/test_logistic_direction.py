"""Weights read better than means under correlated noise, patterns point where the means do (D2)."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from conceptlab.errors import DataError
from conceptlab.find.directions.logistic import logistic_direction
from conceptlab.find.directions.mean_difference import mean_difference
from conceptlab.results import Provenance, Site

GIVEN = {"site": Site("resid_post", 1), "concept": "c", "provenance": Provenance("directions", 1, 0)}
NAMES = ("no", "yes")


def nuisance(n: int = 3000, d: int = 64, delta: float = 4.0) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Classes `delta` apart along u, under noise of 5 sd along an axis half way between u and another one."""
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.normal(size=(d, 2)))[0].T
    y = rng.integers(0, 2, n)
    x = rng.normal(size=(n, d)) + (y - 0.5)[:, None] * delta * u + 5 * rng.normal(size=(n, 1)) * (u + v) / 2**0.5
    return torch.tensor(x).float(), y, torch.tensor(u).float()


def accuracy(found, x: torch.Tensor, y: np.ndarray) -> float:
    return float(np.mean((((x - found.mean) @ found.vector) > 0).numpy() == (y == 1)))


def test_weights_read_better_and_patterns_point_like_means():
    x, y, u = nuisance()
    train, test = slice(0, 2000), slice(2000, None)
    weights = logistic_direction(x[train], y[train], class_names=NAMES, **GIVEN)
    pattern = logistic_direction(x[train], y[train], class_names=NAMES, vector="pattern", **GIVEN)
    means = mean_difference(x[train], y[train], class_names=NAMES, **GIVEN)
    assert accuracy(weights, x[test], y[test]) >= 0.88
    assert accuracy(means, x[test], y[test]) <= 0.78
    assert abs(float(weights.vector @ u)) <= 0.85
    assert float(cosine_similarity(pattern.vector, means.vector, dim=0)) >= 0.97
    assert float(weights.class_points[1, 0]) > 0 > float(weights.class_points[0, 0])


def test_shuffled_labels_read_nothing():
    x, y, _ = nuisance(1200)
    rng = np.random.default_rng(1)
    for _ in range(10):
        found = logistic_direction(x[:800], rng.permutation(y[:800]), class_names=NAMES, **GIVEN)
        assert abs(accuracy(found, x[800:], y[800:]) - 0.5) < 0.12


def test_graded_labels_and_too_many_classes():
    x, _, u = nuisance(500, delta=0.0)
    value = np.random.default_rng(2).normal(size=500)
    x += 3 * torch.tensor(value).float()[:, None] * u
    found = logistic_direction(x, value, **GIVEN)
    assert np.corrcoef((x @ found.vector).numpy(), value)[0, 1] > 0.9
    with pytest.raises(DataError, match="mean_difference"):
        logistic_direction(x, value, class_names=("a", "b", "c"), **GIVEN)
