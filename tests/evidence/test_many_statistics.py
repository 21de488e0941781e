"""Studentised p, sign flips, groups, pools of tokens, shares: right where nothing is there, small where something is."""

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.evidence.random_tokens import random_pairs, token_pool
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.evidence.studentised import studentised_p


@pytest.mark.parametrize("draws", [5, 20, 200])
def test_studentised_p_is_uniform_on_unlike_scales(draws):
    rng, below = np.random.default_rng(0), []
    for _ in range(60):
        scale = 10.0 ** rng.integers(-3, 4, 40)
        every = (rng.normal(size=(draws + 1, 40)) + rng.normal(size=40)) * scale
        below.append((studentised_p(every[0], every[1:]) <= 0.05).mean())
    assert 0.03 < np.mean(below) < 0.07


def test_studentised_p_finds_a_faint_one_beside_loud_ones():
    rng = np.random.default_rng(0)
    null = rng.normal(size=(200, 30)) * ([1000] * 29 + [0.001])
    score = np.array([0.0] * 29 + [0.01])
    p = studentised_p(score, null)
    assert p[29] < 0.001 and p[:29].min() > 0.5
    assert studentised_p(np.array([0.0, 5.0]), np.array([[0.0, 5.0]] * 9)).tolist() == [1.0, 1.0]  # what never moves
    one = studentised_p(-score, null, sided=1)
    assert one[29] > 0.99


def test_sign_flips():
    rng, below = np.random.default_rng(0), []
    for seed in range(30):
        below.append((sign_flip_p(rng.normal(size=(12, 20)), seed=seed) <= 0.05).mean())
    assert 0.02 < np.mean(below) < 0.08
    assert sign_flip_p(rng.normal(size=(12, 2)) + 3).max() <= 0.01 and sign_flip_p(np.zeros((5, 1)))[0] == 1.0


def test_pools_are_the_other_answers_where_there_are_enough():
    assert set(token_pool(np.arange(10, 20), 1000).tolist()) == set(range(10, 20))
    few = token_pool(np.array([1, 2]), 1000, size=30)
    assert len(few) == 30 and few.max() > 100
    with pytest.raises(InputError, match="at least two"):
        token_pool(np.array([1]), 10, pool=[3])
    pairs = random_pairs(50, 7, 4, 0)
    assert (
        pairs.shape == (50, 7, 2)
        and (pairs[..., 0] != pairs[..., 1]).all()
        and set(pairs.ravel().tolist()) == {0, 1, 2, 3}
    )


def test_groups_and_shares():
    assert row_groups(["b", "a", "b"], 3).tolist() == [1, 0, 1] and row_groups(None, 2).tolist() == [0, 1]
    with pytest.raises(InputError, match="2 groups came for 3 rows"):
        row_groups([1, 2], 3)
    low, high = bootstrap_share(np.ones(20))
    assert 0.8 < low < 0.85 and high == 1.0
    low, high = bootstrap_share(np.zeros(20), np.arange(20) // 10)
    assert low == 0.0 and high > 0.8  # two groups say little
