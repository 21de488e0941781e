"""AUC and correlation by column, against scikit-learn and scipy, ties included."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata
from sklearn.metrics import roc_auc_score

from conceptlab.numerics.ranks import auc, mean_ranks, pearson, weighted_auc, weighted_pearson


@pytest.fixture
def columns():
    rng = np.random.default_rng(0)
    decision = rng.normal(size=(60, 5))
    decision[:, 1] = rng.integers(0, 4, 60)  # many ties
    decision[:, 2] = 1.0  # nothing but ties
    return decision, (rng.random((60, 5)) < 0.4).astype(float)


def test_auc(columns):
    decision, positive = columns
    found = auc(torch.tensor(decision), torch.tensor(positive))
    want = [roc_auc_score(positive[:, c], decision[:, c]) for c in range(5)]
    np.testing.assert_allclose(found, want, atol=1e-12)
    assert bool(auc(torch.tensor(decision), torch.ones(60, 5)).isnan().all())


def test_pearson(columns):
    a, b = columns
    found = pearson(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(found[[0, 1, 3, 4]], [pearsonr(a[:, c], b[:, c])[0] for c in (0, 1, 3, 4)], atol=1e-12)
    assert float(found[2]) == 0.0


@pytest.mark.parametrize("column", [0, 1, 2])
def test_weights_are_repeated_rows(columns, column):
    decision, positive = columns[0][:, column], columns[1][:, column]
    counts = np.random.default_rng(1).integers(0, 4, (6, 60))
    repeated = [np.repeat(np.arange(60), row) for row in counts]
    found = weighted_auc(decision, positive, counts.astype(float))
    np.testing.assert_allclose(found, [roc_auc_score(positive[r], decision[r]) for r in repeated], atol=1e-12)
    found = weighted_pearson(decision, positive, counts.astype(float))
    want = [0.0 if column == 2 else pearsonr(decision[r], positive[r])[0] for r in repeated]
    np.testing.assert_allclose(found, want, atol=1e-9)


def test_one_class_says_nothing():
    assert weighted_auc(np.arange(4.0), np.ones(4), np.ones((1, 4))).tolist() == [0.5]


def test_mean_ranks(columns):
    for values in columns[0].T:
        np.testing.assert_array_equal(mean_ranks(values), rankdata(values))
