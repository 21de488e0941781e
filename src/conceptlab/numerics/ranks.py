"""Scores of held-out predictions, for many columns at once."""

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


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation [column] of `a` and `b` [row, column]; 0 where one of them is constant."""
    a, b = a - a.mean(0), b - b.mean(0)
    scale = (a.square().sum(0) * b.square().sum(0)).sqrt()
    return torch.where(scale > 0, (a * b).sum(0) / scale.clamp_min(1e-30), 0.0)
