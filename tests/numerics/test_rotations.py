"""Random rotations keep lengths and angles and leave nothing where it was."""

import pytest
import torch

from conceptlab.numerics.rotations import random_signs, rotated


@pytest.mark.parametrize("width", [7, 32, 96])
def test_lengths_and_angles_stay_and_directions_do_not(width):
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    signs = random_signs((200,), width, seed=1)
    turned = rotated(x[None], signs[:, None])
    torch.testing.assert_close(turned @ turned.transpose(1, 2), (x @ x.T).expand(200, 5, 5), atol=1e-4, rtol=1e-4)
    cosine = (turned[:, 0] * x[0]).sum(-1) / x[0].norm() ** 2
    assert abs(float(cosine.mean())) < 0.15 and float(cosine.std()) == pytest.approx(width**-0.5, rel=0.25)


def test_one_coordinate_is_spread_over_all():
    unit = torch.zeros(64)
    unit[3] = 1.0
    turned = rotated(unit[None], random_signs((500,), 64, seed=2))
    assert turned.square().mean(0).max() < 0.03 and turned.abs().max() < 0.8
    assert torch.equal(turned, rotated(unit[None], random_signs((500,), 64, seed=2)))
