"""How concepts lie to each other: cosines of their directions, plain and under the causal inner product.

The causal inner product weighs directions by the inverse covariance of the unembedding, <a, b> = a' S b with S = Cov(W_U): a stream
direction acts on the logits through W_U, so two directions are orthogonal when they move unrelated tokens. (For unembedding
directions the same product reads g' S^-1 g'.) Source: Park et al. 2023, The Linear Representation Hypothesis.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.results import Provenance, Scores

CARD = {
    "name": "concept cosines",
    "paper": "Park et al. 2023, The Linear Representation Hypothesis",
    "tags": ["geometry"],
    "takes": "directions [concept, d_model], W_U",
    "returns": "Scores",
    "cost": "one d_model x d_model covariance",
}


def concept_cosines(
    directions: Tensor,
    names: Sequence[str],
    unembedding: Tensor | None,
    provenance: Provenance,
    *,
    n_random: int = 2000,
) -> Scores:
    """Cosines [concept, concept_other] of `directions` [concept, d_model] (`score`; `causal` where there is W_U [d_vocab, d]).

    `control` is the mean |cosine| of random directions of this width.
    """
    unit = directions.double() / directions.double().norm(dim=1, keepdim=True).clamp_min(1e-12)
    plain = (unit @ unit.T).numpy()
    causal = np.full_like(plain, np.nan) if unembedding is None else causal_cosines(unit, unembedding)
    pairs = torch.randn(2, n_random, unit.shape[1], generator=torch.Generator().manual_seed(provenance.seed)).double()
    random = torch.nn.functional.cosine_similarity(pairs[0], pairs[1]).abs().mean()
    dims = ("concept", "concept_other")
    data = xr.Dataset(
        {"score": (dims, plain), "causal": (dims, causal), "control": (dims, np.full_like(plain, float(random)))},
        coords={"concept": list(names), "concept_other": list(names)},
    )
    return Scores(data, provenance)


def causal_cosines(directions: Tensor, unembedding: Tensor) -> np.ndarray:
    """Cosines under S = Cov(W_U), eigenvalues floored at 1e-6 of the largest; rows of W_U with tiny norm are left out."""
    rows = unembedding.detach().double().cpu()
    norms = rows.norm(dim=1)
    rows = rows[norms > 1e-3 * norms.mean()]
    centred = rows - rows.mean(0)
    energy, basis = torch.linalg.eigh(centred.T @ centred / len(rows))
    root = basis * energy.clamp_min(1e-6 * float(energy[-1])).sqrt()
    mapped = directions @ root
    mapped = mapped / mapped.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return (mapped @ mapped.T).numpy()
