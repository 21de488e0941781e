"""How well a found circuit and a ranking of edges match a circuit that is known, because it was planted.

Precision and recall of the found edges, and the area under the ROC curve of the scores of all edges (ACDC's form of evaluation,
Conmy et al. 2023). Beside precision and recall stand those of random circuits with as many edges into each layer; beside the area,
that of the same scores on shuffled edges. Cost: no model passes.
"""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.numerics.ranks import weighted_auc
from conceptlab.results import Circuit, Provenance, Scores

CARD = {
    "name": "circuit recovery",
    "paper": "Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability (ROC of edges)",
    "tags": ["circuits", "evaluation"],
    "takes": "a found circuit, the true edges, scores of all edges",
    "returns": "Scores",
    "cost": "no model passes",
}

Edges = Iterable[tuple[str, str]]


def circuit_recovery(
    found: Circuit,
    truth: Edges,
    *,
    scored: Circuit | None = None,
    neutral: Edges = (),
    n_draws: int = 1000,
    seed: int = 0,
) -> Scores:
    """`score` [statistic] (precision, recall, auroc) beside `control` (mean over draws) and p.

    `scored` holds every edge of the graph with its score (|weight| counts); without it auroc is NaN. Edges that are `neutral`, of
    which the truth says nothing, count neither way. Precision is NaN where nothing was found. Raises InputError where the truth is
    empty or `scored` lacks edges.
    """
    true, open_ = _mask(found, truth), _mask(found, neutral)
    if not true.any():
        raise InputError("the truth names no edge, so nothing can be recovered; a null world has no circuit")
    counts = ~open_
    rng = np.random.default_rng(seed)
    drawn = random_circuits(found, n_draws, seed=seed) if len(found) else ()
    ours = _precision_recall(_mask_of(found), true, counts)
    random = np.array([_precision_recall(_mask_of(c), true, counts) for c in drawn]).reshape(-1, 2)
    area, areas = np.nan, np.full(1, np.nan)
    if scored is not None:
        score = _scores(scored)[counts]
        area = _auroc(score, true[counts])
        areas = np.array([_auroc(score, rng.permutation(true[counts])) for _ in range(min(n_draws, 200))])
    score = np.array([*ours, area])
    columns = {"score": score, "control": np.array([*_mean(random), areas.mean()])}
    columns["p"] = np.array([_p(score[0], random[:, 0]), _p(score[1], random[:, 1]), _p(area, areas)])
    data = xr.Dataset(
        {name: ("statistic", values) for name, values in columns.items()},
        coords={"statistic": ["precision", "recall", "auroc"]},
        attrs={"n_true": int(true.sum()), "n_found": len(found), "n_hits": int((_mask_of(found) & true).sum())},
    )
    return Scores(data, Provenance("circuit recovery", found.provenance.n, seed, model=found.provenance.model))


def _mask(like: Circuit, edges: Edges) -> np.ndarray:
    return _mask_of(Circuit.from_edges(like.shape, [tuple(edge[:2]) for edge in edges], like.provenance))


def _mask_of(circuit: Circuit) -> np.ndarray:
    mask = np.zeros(circuit.shape.n_edges, dtype=bool)
    mask[circuit.edge_numbers] = True
    return mask


def _scores(scored: Circuit) -> np.ndarray:
    if len(scored) != scored.shape.n_edges:
        raise InputError(f"scored holds {len(scored):,} of {scored.shape.n_edges:,} edges; give a score for every edge")
    score = np.zeros(len(scored))
    score[scored.edge_numbers] = np.nan_to_num(np.abs(scored.weights))
    return score


def _precision_recall(mask: np.ndarray, true: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    n_found, hits = int((mask & counts).sum()), int((mask & true).sum())
    return hits / n_found if n_found else np.nan, hits / int(true.sum())


def _auroc(score: np.ndarray, true: np.ndarray) -> float:
    return float(weighted_auc(score, true.astype(float), np.ones((1, len(score))))[0])


def _mean(random: np.ndarray) -> np.ndarray:
    """Mean over draws of each column; NaN where no draw has a value."""
    finite = np.isfinite(random)
    return np.where(finite.any(0), np.where(finite, random, 0.0).sum(0) / np.maximum(finite.sum(0), 1), np.nan)


def _p(score: float, draws: np.ndarray) -> float:
    draws = draws[np.isfinite(draws)]
    return float(permutation_p(score, draws)) if len(draws) and np.isfinite(score) else float("nan")
