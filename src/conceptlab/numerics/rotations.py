"""Random rotations of wide vectors that cost d log d: what is as large as a vector, varies as it does, and points elsewhere."""

import torch
from torch import Tensor

ROUNDS = 3


def random_signs(shape: tuple[int, ...], width: int, seed: int) -> Tensor:
    """Signs [*shape, ROUNDS, width] (int8) that fix one rotation for each entry of `shape`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (*shape, ROUNDS, width), generator=generator, dtype=torch.int8) * 2 - 1


def rotated(vectors: Tensor, signs: Tensor) -> Tensor:
    """`vectors` [..., d] turned by the rotation of `signs` [..., ROUNDS, d] (broadcast), norms and angles kept; float32.

    Each round flips signs and takes the discrete Hartley transform, which is orthogonal; after three rounds a coordinate is spread
    over all others about evenly (as in the fast Johnson-Lindenstrauss transform of Ailon and Chazelle 2009).
    """
    x = vectors.float()
    for i in range(ROUNDS):
        spectrum = torch.fft.fft(x * signs[..., i, :].to(x), norm="ortho")
        x = spectrum.real - spectrum.imag
    return x
