"""Are concepts that people find alike also alike in the model? Rank correlation of similarities, beside what people reach.

Spearman's correlation of the upper triangles of the model's cosines and of people's judgements, by layer. The ceiling is how well
halves of the people agree with each other (split-half, Spearman-Brown corrected), where each person's judgements are given.
Source: representational similarity analysis, Kriegeskorte et al. 2008; used on concepts by Xu et al. 2024. The judgements are the
user's: none are shipped. Control: concepts exchanged in one of the matrices (Mantel 1967). Cost: no model passes.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "similarity alignment",
    "paper": "Kriegeskorte et al. 2008; Xu et al. 2024",
    "tags": ["geometry", "human judgements"],
    "takes": "concept vectors [concept, layer, d], judged similarities [concept, concept] or [person, concept, concept]",
    "returns": "Scores",
    "cost": "no model passes",
}
FEWEST = 5


def similarity_alignment(
    vectors: Tensor,
    judged: np.ndarray,
    *,
    permutations: int = 200,
    n_resamples: int = 200,
    seed: int = 0,
    model: str = "",
) -> Scores:
    """Correlation of cosines of `vectors` [concept, layer, d] with `judged`, [concept, concept] or one such matrix a person; NaN
    where a pair was not judged. Axis layer.

    `score`, `low`, `high` (concepts drawn again; pairs of a concept with itself left out), `control`, `control_high` (concepts
    exchanged), `p`; attribute `ceiling` (NaN for one matrix). Raises InputError where shapes do not fit, or fewer than 5 concepts.
    """
    people = judged if judged.ndim == 3 else judged[None]
    n = len(vectors)
    if people.shape[1:] != (n, n):
        raise InputError(f"similarities are {judged.shape} for {n} concepts; give one value for each pair of them")
    if n < FEWEST:
        raise InputError(f"{n} concepts have too few pairs for a correlation; give at least {FEWEST}")
    mean = mean_judgement(people)
    if np.isfinite(mean[np.triu_indices(n, 1)]).sum() < FEWEST:
        raise InputError(f"fewer than {FEWEST} pairs were judged; give more similarities")
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    cosines = torch.einsum("ild,jld->lij", unit, unit).numpy()
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(n) for _ in range(permutations)]
    drawn = [rng.integers(0, n, n) for _ in range(n_resamples)]
    columns: dict[str, list[float]] = {c: [] for c in ("score", "low", "high", "control", "control_high", "p")}
    for own in cosines:
        score = upper_correlation(own, mean)
        null = np.array([upper_correlation(own, mean[np.ix_(o, o)]) for o in orders])
        again = np.array([upper_correlation(own[np.ix_(d, d)], mean[np.ix_(d, d)], ids=d) for d in drawn])
        low, high = np.nanquantile(again, [0.025, 0.975])
        for name, value in zip(
            columns, (score, low, high, null.mean(), np.quantile(null, 0.95), permutation_p(score, null)), strict=True
        ):
            columns[name].append(float(value))
    layers = ["embed", *map(str, range(len(cosines) - 1))]
    data = xr.Dataset({c: ("layer", v) for c, v in columns.items()}, coords={"layer": layers})
    data.attrs["ceiling"] = split_half(people, rng)
    return Scores(data, Provenance("similarity alignment", n, seed, model, settings={"permutations": permutations}))


def upper_correlation(a: np.ndarray, b: np.ndarray, ids: np.ndarray | None = None) -> float:
    """Spearman's correlation of the upper triangles of two matrices; pairs without a value, and pairs of one concept with itself
    (`ids` [place], where concepts were drawn again), are left out. 0 where one is constant."""
    from scipy.stats import rankdata

    rows, cols = np.triu_indices(len(a), 1)
    x, y = a[rows, cols], b[rows, cols]
    kept = np.isfinite(x) & np.isfinite(y)
    if ids is not None:
        kept &= ids[rows] != ids[cols]
    if kept.sum() < 3:
        return float("nan")
    x, y = rankdata(np.round(x[kept], 9)), rankdata(np.round(y[kept], 9))
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0


def mean_judgement(people: np.ndarray) -> np.ndarray:
    """The mean over those `people` [person, concept, concept] who judged a pair; NaN where nobody did."""
    judged = np.isfinite(people).sum(0)
    return np.divide(np.nansum(people, 0), judged, out=np.full(people.shape[1:], np.nan), where=judged > 0)


def split_half(people: np.ndarray, rng: np.random.Generator, n_splits: int = 50) -> float:
    """How well the mean of half of the `people` [person, concept, concept] agrees with the other half's, corrected to all."""
    if len(people) < 2:
        return float("nan")
    found = []
    for _ in range(n_splits):
        order = rng.permutation(len(people))
        half = len(order) // 2
        r = upper_correlation(mean_judgement(people[order[:half]]), mean_judgement(people[order[half:]]))
        found.append(2 * r / (1 + r))
    return float(np.nanmean(found))
