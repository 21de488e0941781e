"""The direction of a concept: between its class means (or along the covariance with a graded label).

For two classes this is the difference of means; for K classes the subspace of the centred class means (rank at most K - 1).
Source: Marks and Tegmark 2023 (mass-mean); Belrose 2023 (difference in means is what erasure must remove).
"""

import numpy as np
import torch
from torch import Tensor

from conceptlab.results import Provenance, Site, Subspace

CARD = {
    "name": "difference of means",
    "paper": "Marks and Tegmark 2023, The Geometry of Truth",
    "tags": ["directions"],
    "takes": "features [row, d_model], labels",
    "returns": "Subspace",
    "cost": "no model passes",
}

ROUNDING = 1e-6  # of the stream's norm: a difference of means below it is none


def mean_difference(
    x: Tensor,
    labels: np.ndarray,
    *,
    site: Site,
    concept: str,
    class_names: tuple[str, ...] = (),
    provenance: Provenance,
) -> Subspace:
    """Subspace of `labels` (class ids, or floats for a graded concept: then `class_names` is empty) in `x` [row, d_model].

    `mean` is the mean of the class means, so that classes weigh alike; `class_points` are their coordinates around it.
    """
    x = x.float()
    if not class_names:
        centred = torch.from_numpy(labels - labels.mean()).to(x)
        direction = (centred[:, None] * (x - x.mean(0))).sum(0) / centred.abs().sum().clamp_min(1e-12)
        basis = _unit(direction, x)[None]
        return Subspace(basis, x.mean(0), site, concept, (), torch.zeros(0, 1), provenance)
    means = torch.stack([x[torch.from_numpy(labels == k)].mean(0) for k in range(len(class_names))])
    mean = means.mean(0)
    if len(class_names) == 2:
        direction = means[1] - means[0]
        basis = _unit(direction, x)[None]
    else:
        _, energy, right = torch.linalg.svd(means - mean, full_matrices=False)
        basis = right[(energy > 1e-4 * energy[0]) & (energy > ROUNDING * _size(x))]
    return Subspace(basis.contiguous(), mean, site, concept, class_names, (means - mean) @ basis.T, provenance)


def _size(x: Tensor) -> float:
    return float(x.norm(dim=1).mean())


def _unit(direction: Tensor, x: Tensor) -> Tensor:
    """The unit vector, or zeros where all that is left of the difference is rounding."""
    norm = direction.norm()
    return direction / norm if norm > ROUNDING * _size(x) else torch.zeros_like(direction)


def readout_spread(x: Tensor, subspace: Subspace) -> float:
    """Standard deviation of `x` [row, d_model] along the first basis vector."""
    return float(((x.float() - subspace.mean) @ subspace.vector).std())
