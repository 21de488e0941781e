"""Cosines under the causal inner product: orthogonal exactly where concepts move unrelated tokens."""

import numpy as np
import pytest
import torch

from conceptlab.measure.geometry.cosines import causal_cosines, concept_cosines
from conceptlab.results import Provenance

PROVENANCE = Provenance("cosines", 1, 0)


def off_diagonal(cosine: np.ndarray) -> float:
    return float(np.abs(cosine[~np.eye(len(cosine), dtype=bool)]).mean())


@pytest.fixture(scope="module")
def factors():
    """Words of k binary factors, unembedding A z + noise, and for each factor the stream direction that moves it alone."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(16, 8)) / 4
    z = rng.integers(0, 2, (4000, 8)) * 2.0 - 1
    unembedding = z @ a.T + 0.1 * rng.normal(size=(4000, 16))
    moves = np.linalg.pinv(a.T).T  # row i: a stream direction v with A' v = e_i
    return torch.tensor(unembedding), torch.tensor(moves), torch.tensor(a)


def test_separable_factors_are_orthogonal_causally_and_only_so(factors):
    unembedding, moves, _ = factors
    found = concept_cosines(moves, [f"factor {i}" for i in range(8)], unembedding, PROVENANCE)
    assert off_diagonal(found["causal"].values) < 0.05
    assert off_diagonal(found["score"].values) > 0.15
    np.testing.assert_allclose(np.diag(found["causal"]), 1, atol=1e-9)
    rng = np.random.default_rng(1)
    root = rng.normal(size=(16, 16))
    mapped = moves.numpy() @ root
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    assert off_diagonal(mapped @ mapped.T) > 0.15  # any other metric does not do it


def test_directions_that_move_the_same_tokens_are_close(factors):
    unembedding, moves, _ = factors
    same = torch.stack([moves[0] + 0.1 * moves[1], moves[0], -moves[0]])
    cosine = causal_cosines(same, unembedding)
    assert cosine[0, 1] > 0.98 and cosine[1, 2] == pytest.approx(-1)


def test_unused_rows_of_the_unembedding_do_not_count(factors):
    unembedding, moves, _ = factors
    padded = torch.cat([unembedding, 1e-6 * torch.randn(4000, 16, generator=torch.Generator().manual_seed(0))])
    np.testing.assert_allclose(causal_cosines(moves, padded), causal_cosines(moves, unembedding), atol=1e-9)


def test_the_control_is_that_of_random_directions():
    directions = torch.randn(40, 32, generator=torch.Generator().manual_seed(3))
    found = concept_cosines(directions, [str(i) for i in range(40)], None, PROVENANCE)
    control = float(found["control"][0, 0])
    assert off_diagonal(found["score"].values) == pytest.approx(control, rel=0.1)
    assert control == pytest.approx((2 / (np.pi * 32)) ** 0.5, rel=0.05)
    assert np.isnan(found["causal"]).all()
