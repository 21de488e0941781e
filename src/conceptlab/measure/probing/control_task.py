"""Does a probe read the representation, or does it learn anything one asks? Control tasks and selectivity.

Every type (a word, a template, an entity) gets one random label, drawn from the real label distribution, on all its rows; the same
probe on the same folds tries to learn it. Selectivity = task score - control score. Types must appear on both sides of a fold, or
nothing could be learned and the control would be empty; rows of types that appear once take no part.
Source: Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks.
"""

from dataclasses import dataclass

import numpy as np
import torch

from conceptlab.measure.probing.columns import Kind, Problem, decisions, default_c, score
from conceptlab.numerics.linear_fit import Layers, Rotated, count_layers, rotated_layers

CARD = {
    "name": "control tasks",
    "paper": "Hewitt and Liang 2019",
    "tags": ["probing", "control"],
    "takes": "features [row, layer, d], labels, types",
    "returns": "Scores",
    "cost": "(1 + draws) x layers fits, no model passes",
}


@dataclass(frozen=True)
class ControlTask:
    """`task` [layer] and `control` [layer, draw] held-out scores on folds that share types; NaN where types are too few."""

    task: np.ndarray
    control: np.ndarray

    @property
    def selectivity(self) -> np.ndarray:
        """Task minus mean control, [layer]."""
        return self.task - self.control.mean(1)


def control_task(  # noqa: PLR0913 - the protocol, fully stated
    features: Layers,
    labels: np.ndarray,
    kind: Kind,
    types: np.ndarray,
    *,
    n_draws: int = 5,
    n_folds: int = 5,
    seed: int = 0,
) -> ControlTask:
    """Score the task and `n_draws` control labellings of `types` [row] at every layer of `features` [row, layer, d].

    Folds split rows inside types. Fewer than 2 types of several rows, or fewer than 20 such rows, give NaN (nothing to learn).
    """
    n_layers = count_layers(features)
    ids, counts = np.unique(types, return_inverse=True, return_counts=True)[1:]
    kept = np.flatnonzero(counts[ids] >= 2)
    if len(kept) < 20 or len(np.unique(ids[kept])) < 2:
        return ControlTask(np.full(n_layers, np.nan), np.full((n_layers, n_draws), np.nan))
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(labels)[rng.integers(0, len(labels), (n_draws, int(ids.max()) + 1))][:, ids[kept]]
    stacked = np.concatenate([labels[kept][None], drawn])
    if kind != "graded" and any(len(np.unique(row)) < 2 for row in stacked):
        return ControlTask(np.full(n_layers, np.nan), np.full((n_layers, n_draws), np.nan))
    problem = Problem(
        stacked, rows_within_types(ids[kept], n_folds, rng), kind, "r" if kind == "graded" else "accuracy"
    )
    rows = torch.from_numpy(kept)
    scores = np.stack([_layer(x.rows(rows), problem) for x in rotated_layers(features)])
    return ControlTask(scores[:, 0], scores[:, 1:])


def rows_within_types(ids: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold [row] that deals the rows of every type over the folds, starting at a random one."""
    folds = np.zeros(len(ids), dtype=int)
    for one in np.unique(ids):
        rows = rng.permutation(np.flatnonzero(ids == one))
        folds[rows] = (np.arange(len(rows)) + rng.integers(n_folds)) % n_folds
    return folds


def _layer(x: Rotated, problem: Problem) -> np.ndarray:
    total = np.zeros(len(problem.labels))
    for fold in np.unique(problem.folds):
        rows = np.flatnonzero(problem.folds == fold)
        values = decisions(x, problem, (int(fold),), tol=1e-2, c=default_c(x.n, x.d))
        total += score(problem, rows, values).double().numpy() * len(rows)
    return total / len(problem.folds)
