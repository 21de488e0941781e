"""One concept's labels, real and shuffled, as columns of one fit: which rows train, what is scored, and how."""

from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.numerics.linear_fit import Rotated, fit_columns
from conceptlab.numerics.ranks import auc, pearson

Kind = Literal["binary", "classes", "graded"]
Metric = Literal["accuracy", "auc", "r"]
IMBALANCE = 0.6  # above this share of one class accuracy says little, and AUC is used (A1)


def default_c(n: int, d: int) -> float:
    """scikit-learn's C = 1 where rows are plenty (10 a dimension), 0.01 where they are few; a fixed rule, never tuned (A1)."""
    return 1.0 if n >= 10 * d else 0.01


def choose_metric(labels: np.ndarray, kind: Kind) -> Metric:
    """Accuracy where classes are balanced, AUC for a lopsided binary concept, Pearson r for a graded one."""
    if kind == "graded":
        return "r"
    share = np.bincount(labels).max() / len(labels)
    return "auc" if kind == "binary" and share > IMBALANCE else "accuracy"


@dataclass(frozen=True)
class Problem:
    """`labels` [draw, row] (draw 0 is the real one, the rest shuffled), `folds` [row], and how a prediction is scored."""

    labels: np.ndarray
    folds: np.ndarray
    kind: Kind
    metric: Metric

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.folds.max()) + 1

    @property
    def n_classes(self) -> int:
        """Columns per draw: one per class where there are more than two, else one."""
        return int(self.labels.max()) + 1 if self.kind == "classes" else 1

    @property
    def exclusions(self) -> list[tuple[int, ...]]:
        """The training sets, named by the folds they leave out: single folds, then unordered pairs (shared by both folds)."""
        folds = range(self.n_folds)
        return [(i,) for i in folds] + list(combinations(folds, 2))

    def targets(self) -> Tensor:
        """Targets [row, draw * class]."""
        labels = torch.from_numpy(self.labels.T.copy())
        if self.kind == "graded":
            values = labels.float()
            return (values - values.mean(0)) / values.std(0).clamp_min(1e-12)
        if self.n_classes == 1:
            return labels.float()
        return torch.nn.functional.one_hot(labels.long(), self.n_classes).flatten(1).float()


def decisions(
    x: Rotated, problem: Problem, out: tuple[int, ...], *, tol: float, c: float, budget: int = 1 << 23
) -> Tensor:
    """Decision values [held-out row, draw, class] of probes trained without the folds `out`; `budget` bounds row x column."""
    held = torch.from_numpy(np.isin(problem.folds, out))
    targets = problem.targets()
    part, test = x.rows(~held), x.z[held]
    loss = "squared" if problem.kind == "graded" else "logistic"
    found = []
    for columns in targets[~held].split(max(1, budget // len(targets)), dim=1):
        fit = fit_columns(part, columns, torch.ones(1, 1).expand_as(columns), loss=loss, c=c, tol=tol)
        found.append(test @ fit.u + fit.b)
    return torch.cat(found, 1).unflatten(1, (len(problem.labels), problem.n_classes))


def score(problem: Problem, rows: np.ndarray, values: Tensor) -> Tensor:
    """Score [draw] of decision values [row, draw, class] on `rows`."""
    labels = torch.from_numpy(problem.labels[:, rows].T.copy())
    if problem.metric == "r":
        return pearson(values[..., 0], labels.float())
    if problem.metric == "auc":
        return torch.nan_to_num(auc(values[..., 0], labels.float()), nan=0.5)
    return correct(problem, rows, values).mean(0)


def correct(problem: Problem, rows: np.ndarray, values: Tensor) -> Tensor:
    """Whether each row is classified rightly, [row, draw] as 0/1."""
    labels = torch.from_numpy(problem.labels[:, rows].T.copy()).long()
    guess = values.argmax(-1) if problem.n_classes > 1 else (values[..., 0] > 0).long()
    return (guess == labels).float()
