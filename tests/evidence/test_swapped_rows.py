"""Does a change do more than its stand-in? Level under the null, power, and the smallest effect of interest."""

import numpy as np

from conceptlab.evidence.swapped_rows import swapped_rows_p


def test_the_level_is_kept_where_rows_are_exchangeable():
    rng = np.random.default_rng(0)
    p = swapped_rows_p(rng.normal(size=(12, 400)), rng.normal(size=(12, 400)), n_swaps=999)
    assert 0.02 < (p <= 0.05).mean() < 0.08


def test_a_shift_is_found_and_one_within_the_floor_is_not():
    rng = np.random.default_rng(1)
    other = rng.normal(scale=0.01, size=(16, 2))
    real = rng.normal(scale=0.01, size=(16, 2)) + np.array([1.0, 0.05])
    assert (swapped_rows_p(real, other) < 0.01).all()
    p = swapped_rows_p(real, other, floor=0.1)
    assert p[0] < 0.01 and p[1] == 1.0


def test_the_floor_takes_from_either_sign():
    real = np.stack([np.full(16, 1.0), np.full(16, -1.0)], 1)
    p = swapped_rows_p(real, np.zeros((16, 2)), floor=0.99)
    assert p[0] == p[1] < 0.01
