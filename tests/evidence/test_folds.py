"""Folds keep groups whole and classes even; shuffles keep what the folds were built on."""

import numpy as np
import pytest

from conceptlab.errors import DataError
from conceptlab.evidence import make_folds, permuted_labels


@pytest.mark.parametrize("seed", range(3))
def test_folds_are_stratified(seed):
    labels = np.repeat([0, 1, 2], [50, 100, 33])
    folds = make_folds(labels, None, seed=seed)
    counts = np.array([np.bincount(labels[folds == f], minlength=3) for f in range(5)])
    assert (np.abs(counts - counts.mean(0)) <= 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_groups_stay_whole_and_classes_nearly_even(seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 400)
    labels = (rng.random(40) > 0.5).astype(int)[groups]
    folds = make_folds(labels, groups, seed=seed)
    assert all(len(np.unique(folds[groups == g])) == 1 for g in np.unique(groups))
    share = np.array([labels[folds == f].mean() for f in range(5)])
    assert np.abs(share - labels.mean()).max() < 0.1
    assert np.bincount(folds).min() > 60


def test_graded_labels_are_spread():
    labels = np.random.default_rng(0).exponential(size=200)
    folds = make_folds(labels, None, seed=0)
    means = [labels[folds == f].mean() for f in range(5)]
    assert np.ptp(means) < 0.35 * labels.std()


def test_the_seed_decides():
    labels = np.arange(60) % 2
    assert (make_folds(labels, None, seed=4) == make_folds(labels, None, seed=4)).all()
    assert (make_folds(labels, None, seed=4) != make_folds(labels, None, seed=5)).any()


@pytest.mark.parametrize(
    ("labels", "groups", "says"),
    [
        (np.arange(4) % 2, None, "4 groups are too few for 5 folds"),
        (np.arange(40) % 2, np.arange(40) // 20, "2 groups are too few for 5 folds"),
        (np.r_[np.zeros(40, int), 1, 1], None, "class 1 appears in fewer than 3 of 5 folds"),
        (np.r_[np.zeros(40, int), np.ones(10, int)], np.r_[np.arange(40), [99] * 10], "class 1 appears in fewer"),
    ],
)
def test_too_few_rows_or_groups_are_named(labels, groups, says):
    with pytest.raises(DataError, match=says):
        make_folds(labels, groups)


def counts_by_fold(labels, folds):
    return np.array([np.bincount(labels[folds == f], minlength=3) for f in range(5)])


def test_shuffles_keep_the_classes_of_every_fold():
    labels = np.repeat([0, 1, 2], [20, 50, 30])
    folds = make_folds(labels, None)
    shuffled = permuted_labels(labels, None, 30, 0, folds=folds)
    assert len(np.unique(shuffled, axis=0)) == 30
    assert all((counts_by_fold(row, folds) == counts_by_fold(labels, folds)).all() for row in shuffled)
    # without folds they are free
    free = permuted_labels(labels, None, 30, 0)
    assert any((counts_by_fold(row, folds) != counts_by_fold(labels, folds)).any() for row in free)
    assert all((np.bincount(row) == np.bincount(labels)).all() for row in free)


def test_labels_that_are_constant_in_groups_move_with_them():
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 50, 300))
    labels = (np.arange(50) % 2)[groups]
    folds = make_folds(labels, groups)
    shuffled = permuted_labels(labels, groups, 20, 1, folds=folds)
    for row in shuffled:
        assert all(len(np.unique(row[groups == g])) == 1 for g in np.unique(groups))
        for f in range(5):
            here = [g for g in np.unique(groups) if folds[groups == g][0] == f]
            value = lambda of, here=here: sorted(of[groups == g][0] for g in here)  # noqa: E731
            assert value(row) == value(labels)
    assert 0.4 < (shuffled != labels).mean() < 0.6


def test_pairs_flip_inside_the_pair():
    groups, labels = np.repeat(np.arange(40), 2), np.tile([0, 1], 40)
    shuffled = permuted_labels(labels, groups, 50, 0, folds=make_folds(labels, groups))
    assert (shuffled.reshape(50, 40, 2).sum(2) == 1).all()
    assert 0.4 < (shuffled != labels).mean() < 0.6


def test_one_mixed_group_among_constant_ones_does_not_pin_the_others():
    groups = np.repeat(np.arange(40), 5)
    labels = (np.arange(40) % 2)[groups]
    labels[0] = 1 - labels[0]
    folds = make_folds(labels, groups)
    shuffled = permuted_labels(labels, groups, 50, 0, folds=folds)
    assert 0.3 < (shuffled != labels).mean() < 0.6
    assert all((counts_by_fold(row, folds) == counts_by_fold(labels, folds)).all() for row in shuffled)


def test_graded_labels_are_shuffled_too():
    labels = np.random.default_rng(0).normal(size=50)
    shuffled = permuted_labels(labels, None, 5, 0, folds=make_folds(labels, None))
    assert (np.sort(shuffled, 1) == np.sort(labels)).all() and (shuffled != labels).mean() > 0.8
    assert permuted_labels(labels, None, 0, 0).shape == (0, 50)
