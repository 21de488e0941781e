"""Which tokens stand in for the answers under the null: those of the other rows where there are enough, else the vocabulary."""

from collections.abc import Sequence

import numpy as np

from conceptlab.errors import InputError

ENOUGH = (
    8  # distinct answers from which the answers of other rows are the better stand-ins: alike in kind and frequency
)
POOL = 64


def token_pool(
    answers: np.ndarray, d_vocab: int, *, pool: Sequence[int] | None = None, size: int = POOL, seed: int = 0
) -> np.ndarray:
    """Token ids that random pairs are drawn from: `pool` if given; else the distinct `answers` (at most `size` of them) where there
    are at least eight; else `size` random ids of the vocabulary.

    Raises InputError where a given pool has fewer than two tokens or leaves the vocabulary.
    """
    rng = np.random.default_rng(seed)
    if pool is not None:
        found = np.unique(np.asarray(pool, dtype=np.int64))
        if len(found) < 2 or found.min() < 0 or found.max() >= d_vocab:
            raise InputError(
                f"the pool of random tokens holds {len(found)} ids; give at least two different ids from 0 to {d_vocab - 1}"
            )
        return found
    distinct = np.unique(answers)
    source = distinct if len(distinct) >= ENOUGH else np.arange(d_vocab)
    return np.sort(rng.choice(source, size=min(size, len(source)), replace=False))


def random_pairs(n_draws: int, n_rows: int, size: int, seed: int) -> np.ndarray:
    """Two different places in a pool of `size` for each draw and row, [draw, row, 2]."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, size, (n_draws, n_rows))
    second = (first + rng.integers(1, size, (n_draws, n_rows))) % size
    return np.stack([first, second], -1)
