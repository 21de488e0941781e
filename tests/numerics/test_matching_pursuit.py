"""Matching pursuit: planted atoms come back, both forms agree with plain least squares, and noise explains little."""

import numpy as np
import pytest
import torch

from conceptlab.numerics.matching_pursuit import pursue, pursue_many


def planted(seed=0, n=200, d=128, size=2000, k=8):
    rng = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(size, d, generator=rng, dtype=torch.float64), dim=1)
    chosen = torch.randperm(size, generator=rng)[:k]
    mix = torch.rand(n, k, generator=rng, dtype=torch.float64)
    samples = mix @ atoms[chosen]
    return samples + 0.1 * torch.randn(n, d, generator=rng, dtype=torch.float64), atoms, chosen


def test_planted_atoms_are_recovered():
    samples, atoms, chosen = planted()
    found = pursue(samples, atoms, 8)
    assert set(found.atoms.tolist()) == set(chosen.tolist())
    random = pursue(samples, atoms[1000:1050], 8)
    assert found.fve[-1] > 0.6 > 0.3 > random.fve[-1]
    noise = pursue(torch.randn(200, 128, dtype=torch.float64), atoms, 8)
    assert noise.fve[-1] < 0.15


def test_the_fit_is_least_squares_and_shares_only_grow():
    samples, atoms, _ = planted(1, n=30, d=20, size=60)
    found = pursue(samples, atoms, 12)
    assert len(set(found.atoms.tolist())) == 12
    for step in (1, 5, 12):
        basis = atoms[found.atoms[:step]].numpy().T
        fitted = basis @ np.linalg.lstsq(basis, samples.numpy().T, rcond=None)[0]
        left = np.square(samples.numpy().T - fitted).sum() / samples.square().sum().item()
        assert found.fve[step - 1].item() == pytest.approx(1 - left, abs=1e-10)
    assert (found.fve.diff() >= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_form_from_products_is_the_same(seed):
    rng = torch.Generator().manual_seed(seed)
    samples = torch.randn(3, 40, 24, generator=rng, dtype=torch.float64)  # three heads
    samples[2] = samples[2, :, :2] @ torch.randn(2, 24, generator=rng, dtype=torch.float64)  # of rank two
    words = torch.randn(2, 9, 24, generator=rng, dtype=torch.float64)  # two lists
    words[1, 3] = words[1, 2] * 2  # one word twice
    products = torch.einsum("htd,lwd->lhtw", samples, words)
    whole = samples.square().sum((1, 2)).expand(2, -1)
    many = pursue_many(products, (words @ words.transpose(1, 2))[:, None], whole, 9)
    for which in range(2):
        for head in range(3):
            one = pursue(samples[head], words[which], 9)
            assert torch.allclose(one.fve, many.fve[which, head], atol=1e-9)
            assert torch.equal(one.atoms, many.atoms[which, head])


def test_nothing_left_is_said():
    atoms = torch.eye(4)
    found = pursue(atoms[:1], atoms, 3)
    assert found.atoms.tolist() == [0, -1, -1] and found.fve.tolist() == [1.0, 1.0, 1.0]
    empty = pursue(torch.zeros(2, 4), atoms, 2)
    assert empty.atoms.tolist() == [-1, -1] and empty.fve.tolist() == [0.0, 0.0]
