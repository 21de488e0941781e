"""bootstrap_share: many single rows are resampled by their hits alone, which is the same law as drawing the rows."""

import numpy as np
import pytest

from conceptlab.evidence.intervals import bootstrap_mean
from conceptlab.evidence.shares import MANY, bootstrap_share


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_hits_give_the_interval_that_rows_give(share):
    values = (np.random.default_rng(0).random(2 * MANY) < share).astype(float)
    by_rows = np.array([np.stack(bootstrap_mean(values, seed=seed)) for seed in range(20)]).mean(0)
    by_hits = np.array([bootstrap_share(values, seed=seed) for seed in range(20)]).mean(0)
    np.testing.assert_allclose(by_hits, by_rows, atol=1e-3)


def test_few_rows_and_rows_that_are_no_hits_are_drawn_as_they_were():
    few = (np.arange(50) % 3 == 0).astype(float)
    assert bootstrap_share(few, seed=1) == tuple(map(float, bootstrap_mean(few, seed=1)))
    graded = np.linspace(0.1, 0.9, 2 * MANY)
    assert bootstrap_share(graded, seed=1) == tuple(map(float, bootstrap_mean(graded, seed=1)))


def test_where_all_rows_agree_the_exact_bound_is_given():
    low, high = bootstrap_share(np.ones(2 * MANY))
    assert high == 1.0 and low == pytest.approx(0.025 ** (1 / (2 * MANY)))
