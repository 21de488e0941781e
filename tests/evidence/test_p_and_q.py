"""p values count, q values are scipy's, intervals cover."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from conceptlab.evidence import bootstrap_mean, permutation_p, pooled_p, q_values


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_q_values_are_scipys(n):
    p = np.random.default_rng(n).random(n) ** 3
    p[: n // 3] = p[0]  # ties
    np.testing.assert_allclose(q_values(p), false_discovery_control(p, method="bh"), rtol=1e-12)


def test_no_tests_no_q():
    assert q_values(np.array([])).shape == (0,)


def test_p_counts_draws_at_least_as_large():
    null = np.arange(99.0)
    assert permutation_p(98.5, null) == pytest.approx(1 / 100)
    assert permutation_p(98.0, null) == pytest.approx(2 / 100)  # a tie counts against
    assert permutation_p(-1.0, null) == 1.0
    np.testing.assert_allclose(permutation_p(np.array([1.0, 9.0]), np.array([[0.0, 9.0], [2.0, 0.0]])), [2 / 3, 2 / 3])


def test_pooled_p_counts_over_all_units():
    null = np.arange(999.0).reshape(9, 111)
    np.testing.assert_allclose(pooled_p(np.array([2000.0, 998.0, 499.0, -5.0]), null), [0.001, 0.002, 0.501, 1.0])


def test_permutation_p_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    p = permutation_p(rng.normal(size=4000), rng.normal(size=(99, 4000)))
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).mean() == pytest.approx(level, abs=0.02)


def test_the_bootstrap_covers_and_groups_widen_it():
    rng = np.random.default_rng(0)
    hits, widths = 0, []
    for run in range(100):
        effect = np.repeat(rng.normal(size=40), 5)  # rows of a group are alike
        low, high = bootstrap_mean(
            effect + 0.1 * rng.normal(size=200), np.repeat(np.arange(40), 5), seed=run, n_resamples=300
        )
        alone = bootstrap_mean(effect, None, seed=run, n_resamples=300)
        hits += bool(low <= 0 <= high)
        widths.append((high - low) / (alone[1] - alone[0]))
    assert hits / 100 > 0.87  # a percentile bootstrap of 40 groups covers 93 to 94 %; 100 runs resolve 2.4 %
    assert np.mean(widths) > 1.8
