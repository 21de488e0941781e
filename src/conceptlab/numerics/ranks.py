"""Scores of held-out predictions, for many columns at once."""

import numpy as np
import torch
from torch import Tensor


def auc(decision: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve [column] of `decision` [row, column] for `positive` [row, column] (0/1); ties count half.

    NaN where a column has one class only.
    """
    order = decision.argsort(0)
    sorted_values = decision.gather(0, order)
    ranks = torch.empty_like(decision)
    base = torch.arange(1, len(decision) + 1, dtype=decision.dtype, device=decision.device)[:, None].expand_as(decision)
    ranks.scatter_(0, order, _tied(sorted_values, base))
    n_positive = positive.sum(0)
    n_negative = len(decision) - n_positive
    total = (ranks * positive).sum(0) - n_positive * (n_positive + 1) / 2
    return total / (n_positive * n_negative)


def _tied(sorted_values: Tensor, ranks: Tensor) -> Tensor:
    """Mean ranks inside runs of equal values; a plain copy where there are none, which is nearly always."""
    same = sorted_values[1:] == sorted_values[:-1]
    if not bool(same.any()):
        return ranks.contiguous()
    out = ranks.clone()
    for column in same.any(0).nonzero()[:, 0].tolist():
        _, inverse, counts = sorted_values[:, column].unique_consecutive(return_inverse=True, return_counts=True)
        ends = counts.cumsum(0).to(ranks.dtype)
        out[:, column] = (ends - (counts.to(ranks.dtype) - 1) / 2)[inverse]
    return out


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks [row] of `values` [row] from 1; equal ones share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation [column] of `a` and `b` [row, column]; 0 where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(scale > 0, (a * b).sum(0) / scale.clamp_min(1e-30), 0.0)


def weighted_auc(decision: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC [draw] of `decision` [row] for `positive` [row] (0/1) with row weights [draw, row]; ties half, 0.5 for one class."""
    order = np.argsort(decision, kind="stable")
    start = np.flatnonzero(np.r_[True, np.diff(decision[order]) > 0])
    up = np.add.reduceat(weights[:, order] * positive[order], start, axis=1)
    down = np.add.reduceat(weights[:, order] * (1 - positive[order]), start, axis=1)
    below = np.cumsum(down, 1) - down / 2
    pairs = up.sum(1) * down.sum(1)
    return np.where(pairs > 0, (up * below).sum(1) / np.maximum(pairs, 1e-30), 0.5)


def weighted_pearson(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Correlation [draw] of `a` and `b` [row] with row weights [draw, row]; 0 where one of them is constant."""
    share = weights / np.maximum(weights.sum(1, keepdims=True), 1e-30)
    a, b = a - (share @ a)[:, None], b - (share @ b)[:, None]
    scale = np.sqrt((share * a**2).sum(1) * (share * b**2).sum(1))
    return np.where(scale > 1e-30, (share * a * b).sum(1) / np.maximum(scale, 1e-30), 0.0)
