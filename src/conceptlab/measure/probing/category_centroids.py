"""Do concept vectors fall into categories? Each is given to the nearest mean of the others, by cosine; by layer.

Leave-one-out: a concept's own vector is not in the mean of its category. Score: accuracy, and `balanced`, the mean over categories.
Source: Xu et al. 2024, On the Tip of the Tongue. Control: the same on categories dealt anew to the concepts.
Cost: no model passes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "category centroids",
    "paper": "Xu et al. 2024, On the Tip of the Tongue",
    "tags": ["probing", "categories"],
    "takes": "concept vectors [concept, layer, d], categories",
    "returns": "Scores",
    "cost": "no model passes",
}


def category_centroids(
    vectors: Tensor, categories: Sequence[str], *, permutations: int = 100, seed: int = 0, model: str = ""
) -> Scores:
    """Leave-one-out accuracy of `categories` [concept] from `vectors` [concept, layer, d]; axis layer.

    `score`, `low`, `high`, `balanced`, `control`, `control_high` (dealt categories), `p`. Raises InputError where counts differ, or
    fewer than two categories have two concepts; concepts of categories with one take no part.
    """
    names, ids, counts = np.unique(np.asarray(categories), return_inverse=True, return_counts=True)
    if len(ids) != len(vectors):
        raise InputError(f"{len(ids)} categories came for {len(vectors)} concepts; give one a concept")
    kept = np.flatnonzero(counts[ids] >= 2)
    if (counts >= 2).sum() < 2:
        raise InputError(
            f"{len(names)} categories, of which {(counts >= 2).sum()} have two concepts; give at least two such"
        )
    ids = np.unique(ids[kept], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    labels = np.stack([ids, *(rng.permutation(ids) for _ in range(permutations))])
    data = torch.nn.functional.normalize(vectors[torch.from_numpy(kept)].double(), dim=-1)
    columns: dict[str, list[float]] = {
        c: [] for c in ("score", "low", "high", "balanced", "control", "control_high", "p")
    }
    for layer in range(data.shape[1]):
        right = np.stack([nearest(data[:, layer], own) == own for own in labels])
        null = right[1:].mean(1)
        low, high = bootstrap_share(right[0].astype(float), seed=seed)
        balanced = np.mean([right[0][ids == k].mean() for k in range(int(ids.max()) + 1)])
        told = (
            right[0].mean(),
            low,
            high,
            balanced,
            null.mean(),
            np.quantile(null, 0.95),
            permutation_p(right[0].mean(), null),
        )
        for name, value in zip(columns, told, strict=True):
            columns[name].append(float(value))
    places = ["embed", *map(str, range(data.shape[1] - 1))]
    table = xr.Dataset({c: ("layer", v) for c, v in columns.items()}, coords={"layer": places})
    return Scores(
        table, Provenance("category centroids", len(ids), seed, model, settings={"permutations": permutations})
    )


def nearest(vectors: Tensor, ids: np.ndarray) -> np.ndarray:
    """The category [concept] whose mean is nearest by cosine, own vectors left out; `vectors` [concept, d]."""
    hot = torch.nn.functional.one_hot(torch.from_numpy(ids)).double()
    sums, counts = hot.T @ vectors, hot.sum(0)
    own = hot.bool()
    left = (sums[None] - hot[..., None] * vectors[:, None]) / (counts[None] - hot).clamp_min(1)[..., None]
    cosines = torch.nn.functional.cosine_similarity(left, vectors[:, None], dim=-1)
    alone = own & (counts == 1)[None]
    return cosines.masked_fill(alone, -2.0).argmax(1).numpy()
