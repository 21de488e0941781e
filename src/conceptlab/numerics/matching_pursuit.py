"""Simultaneous orthogonal matching pursuit: which few atoms span many samples at once, best first."""

from typing import NamedTuple

import torch
from torch import Tensor

NOTHING = 1e-12  # of the squared norm is what single precision leaves


class Pursuit(NamedTuple):
    """`atoms` [..., step]: the number of the atom taken at each step (-1 when nothing is left to explain), `fve` [..., step]: share
    of the samples' squared norm that all atoms so far explain."""

    atoms: Tensor
    fve: Tensor


def pursue(samples: Tensor, atoms: Tensor, n_steps: int) -> Pursuit:
    """Take the atom with the largest sum over samples of |<residual, atom>|, refit all by least squares, and go on.

    `samples` [sample, d], `atoms` [atom, d]. The residual is kept orthogonal to an orthonormal basis of what was taken, which is
    the least-squares fit; the products with all atoms are updated, not made again (Tropp et al. 2006; Rubinstein et al. 2008).
    """
    left, whole = samples.double(), samples.double().square().sum()
    products = left @ atoms.double().T  # [sample, atom]
    taken, explained, basis = [], [], torch.zeros(0, samples.shape[1], dtype=torch.float64, device=samples.device)
    size = atoms.double().norm(dim=1).clamp_min(1e-300)
    free = torch.ones(len(atoms), dtype=torch.bool, device=atoms.device)
    for _ in range(n_steps):
        best, new = _next(products, atoms, size, free, basis)
        if best >= 0 and bool(left.square().sum() > NOTHING * whole):
            free[best] = False
            along = left @ new
            left = left - along[:, None] * new
            products = products - along[:, None] * (atoms.double() @ new)
            basis = torch.cat([basis, new[None]])
        else:
            best = -1
        taken.append(best)
        explained.append(float(1 - left.square().sum() / whole) if whole > 0 else 0.0)
    return Pursuit(torch.tensor(taken), torch.tensor(explained, dtype=torch.float64))


def _next(products: Tensor, atoms: Tensor, size: Tensor, free: Tensor, basis: Tensor) -> tuple[int, Tensor]:
    """The best free atom and its part outside the basis, of length 1; atoms inside the basis are closed."""
    worth = products.abs().sum(0)
    while bool(free.any()):
        best = int(worth.masked_fill(~free, -1.0).argmax())
        atom = atoms[best].double()
        outside = atom - basis.T @ (basis @ atom)
        outside = outside - basis.T @ (basis @ outside)  # twice, against rounding
        if bool(outside.norm() > 1e-9 * size[best]):
            return best, outside / outside.norm()
        free[best] = False
    return -1, atoms.new_zeros(atoms.shape[1], dtype=torch.float64)


def pursue_many(products: Tensor, gram: Tensor, whole: Tensor, n_steps: int) -> Pursuit:
    """The same for many sets of samples and short lists of atoms at once, from products alone; the width d is gone.

    `products` [..., sample, atom] of samples with atoms, `gram` [..., atom, atom] of atoms with atoms, `whole` [...] the samples'
    squared norm. Taking an atom is a step of Gaussian elimination in both (the pivoted Cholesky factor of the gram matrix).
    """
    left, gram = products.double(), gram.double().expand(*products.shape[:-2], -1, -1).clone()
    size = gram.diagonal(dim1=-2, dim2=-1).clone()
    free = size > 0
    explained, taken, shares = torch.zeros_like(whole, dtype=torch.float64), [], []
    for _ in range(n_steps):
        room = gram.diagonal(dim1=-2, dim2=-1)
        free = free & (room > 1e-18 * size)
        worth = left.abs().sum(-2).masked_fill(~free, -1.0)
        best = worth.argmax(-1, keepdim=True)  # [..., 1]
        done = ~free.any(-1) | (whole - explained <= NOTHING * whole)
        along = left.gather(-1, best[..., None, :].expand(*left.shape[:-1], 1))  # [..., sample, 1]
        row = gram.gather(-2, best[..., None].expand(*best.shape[:-1], 1, gram.shape[-1]))  # [..., 1, atom]
        pivot = row.gather(-1, best[..., None, :].expand(*row.shape[:-1], 1))
        keep = (~done)[..., None, None].to(row)
        safe = torch.where(pivot > 0, pivot, 1.0)
        explained = explained + (along.square().sum(-2, keepdim=True) / safe * keep)[..., 0, 0]
        left = left - keep * along @ (row / safe)
        gram = gram - keep * row.transpose(-1, -2) @ (row / safe)
        free = free.scatter(-1, best, value=False)
        taken.append(torch.where(done, -1, best[..., 0]))
        shares.append(torch.where(whole > 0, explained / whole.clamp_min(1e-300), 0.0))
    return Pursuit(torch.stack(taken, -1), torch.stack(shares, -1))
