"""The direction that reads a two-class or graded concept best under correlated noise, and the pattern that goes with it.

L2-logistic weights (ridge for graded labels) on features of unit variance, mapped back to raw units. Weights also cancel noise,
so they can point far away from what changes with the concept; the pattern, the covariance of the features with the score, is
what changes (D2). Use the weights to read, the pattern to steer or to compare concepts.
Source: Haufe et al. 2014, On the interpretation of weight vectors of linear models (pattern = Cov(x) w / var(w'x)).
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import DataError
from conceptlab.measure.probing.columns import default_c
from conceptlab.numerics.linear_fit import fit_columns, rotate
from conceptlab.results import Provenance, Site, Subspace

CARD = {
    "name": "logistic direction",
    "paper": "Haufe et al. 2014, On the interpretation of weight vectors of linear models",
    "tags": ["directions", "probing"],
    "takes": "features [row, d_model], labels",
    "returns": "Subspace",
    "cost": "no model passes; one fit",
}


def logistic_direction(
    x: Tensor,
    labels: np.ndarray,
    *,
    site: Site,
    concept: str,
    class_names: tuple[str, ...] = (),
    provenance: Provenance,
    vector: Literal["weights", "pattern"] = "weights",
) -> Subspace:
    """Subspace of rank 1 for `labels` (0 and 1, or floats for a graded concept: then `class_names` is empty) of `x` [row, d_model].

    The vector points to class 1, or to higher labels. Raises DataError for more than two classes: use `mean_difference`.
    """
    if len(class_names) > 2:
        raise DataError(
            f"{len(class_names)} classes have no one logistic direction; use mean_difference for a subspace"
        )
    x = x.float()
    weights = _weights(x, labels, graded=not class_names)
    if vector == "pattern":
        centred = x - x.mean(0)
        weights = centred.T @ (centred @ weights)
    basis = (weights / weights.norm().clamp_min(1e-12))[None]
    if not class_names:
        return Subspace(basis, x.mean(0), site, concept, (), torch.zeros(0, 1), provenance)
    means = torch.stack([x[torch.from_numpy(labels == k)].mean(0) for k in range(2)])
    mean = means.mean(0)
    return Subspace(basis, mean, site, concept, class_names, (means - mean) @ basis.T, provenance)


def _weights(x: Tensor, labels: np.ndarray, *, graded: bool) -> Tensor:
    """Weights [d_model] in raw units, fitted on all rows at the strength of every other probe here."""
    y = torch.from_numpy(np.asarray(labels, dtype=np.float32))[:, None].to(x.device)
    if graded:
        y = (y - y.mean()) / y.std().clamp_min(1e-12)
    loss = "squared" if graded else "logistic"
    rotated = rotate(x)
    fit = fit_columns(rotated, y, torch.ones_like(y), loss=loss, c=default_c(*x.shape), tol=1e-4)
    return rotated.weights(fit.u, fit.b)[0][:, 0]
