"""How alike are concepts by the neurons that stand for them? Overlap of their expert sets, beside human judgements and
embeddings.

Similarity of two concepts is the overlap of their sets less what sets of those sizes share by chance, over their union.
Alignment is the rank correlation with given similarities over all pairs; its interval draws concepts again, not pairs;
control: concepts in other orders. `embedding` is the same for cosines of given vectors. Source: Analyze the Neurons, not the
Embeddings (2025). Departure: the overlap is corrected for chance. Cost: none beyond the sets.
"""

import numpy as np
import xarray as xr
from scipy.stats import rankdata

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "expert similarity",
    "paper": "Analyze the Neurons, not the Embeddings (2025)",
    "tags": ["neurons", "concepts", "alignment"],
    "takes": "expert sets by concept, a matrix of similarities, vectors by concept",
    "returns": "Scores",
    "cost": "no model passes",
}
FEWEST = 5


def expert_similarity(
    experts: np.ndarray, human: np.ndarray, vectors: np.ndarray | None = None, *, n_random: int = 1000, seed: int = 0
) -> Scores:
    """`experts` [concept, unit] (bool), `human` [concept, concept], `vectors` [concept, d].

    Axis by ("experts", "embedding"): `score` rank correlation, `low`, `high` (95 %), `control` mean over other orders of the
    concepts, `control_high` their 95 % point, `p`; `gap` (experts less embedding) with `gap_low`, `gap_high`; [concept,
    other]: `overlap`.
    Raises InputError for fewer than five concepts or shapes that do not fit.
    """
    n = len(experts)
    if n < FEWEST or human.shape != (n, n) or (vectors is not None and len(vectors) != n):
        raise InputError(
            f"{n} concepts came with similarities {human.shape}; give five concepts or more and a square of them"
        )
    found = {"experts": corrected_overlap(experts)}
    if vectors is not None:
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found["embedding"] = unit @ unit.T
    rng, pairs = np.random.default_rng(seed), np.triu_indices(n, 1)
    score = np.array([_correlation(one, human, pairs) for one in found.values()])
    drawn = np.array([[_correlation(one, human[np.ix_(o, o)], pairs) for one in found.values()]
                      for o in (rng.permutation(n) for _ in range(n_random))])  # fmt: skip
    again = np.array([[_resampled(one, human, rows) for one in found.values()]
                      for rows in (rng.integers(0, n, n) for _ in range(n_random))])  # fmt: skip
    ends = np.nanquantile(again, [0.025, 0.975], axis=0)
    columns = {"score": score, "low": ends[0], "high": ends[1], "control": drawn.mean(0),
               "control_high": np.quantile(drawn, 0.95, axis=0), "p": permutation_p(score, drawn)}  # fmt: skip
    data = xr.Dataset(
        {name: ("by", column) for name, column in columns.items()}
        | {"overlap": (("concept", "other"), found["experts"])},
        coords={"by": list(found)},
    )
    if vectors is not None:
        gap = again[:, 0] - again[:, 1]
        low, high = np.nanquantile(gap, [0.025, 0.975])
        data = data.assign(gap=score[0] - score[1], gap_low=low, gap_high=high)
    return Scores(data, Provenance("expert similarity", n, seed, settings={"n_random": n_random}))


def corrected_overlap(experts: np.ndarray) -> np.ndarray:
    """(shared - shared by chance) / union [concept, concept] of sets [concept, unit]; 0 where both are empty."""
    sets = experts.astype(float)
    shared, sizes = sets @ sets.T, sets.sum(1)
    chance = np.outer(sizes, sizes) / sets.shape[1]
    return (shared - chance) / np.maximum(sizes[:, None] + sizes[None] - shared, 1)


def _correlation(one: np.ndarray, human: np.ndarray, pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """Spearman's, ties at their mean rank; 0 where one is constant."""
    a, b = rankdata(one[pairs]), rankdata(human[pairs])
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else 0.0


def _resampled(one: np.ndarray, human: np.ndarray, rows: np.ndarray) -> float:
    """The same over concepts that were drawn again, without pairs of one and the same."""
    first, second = np.triu_indices(len(rows), 1)
    other = rows[first] != rows[second]
    return _correlation(one, human, (rows[first][other], rows[second][other])) if other.sum() > 2 else np.nan
