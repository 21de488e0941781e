"""Average precision and area under the ROC curve of every unit for every concept, from one sort of a unit's responses.

Concepts may leave rows out (`valid`): rows that are neither positive nor negative for them. Equal responses count as one step,
as in the textbook definition (scikit-learn's). Cost: a sort a unit and rows x concepts additions; memory: `budget_bytes` of
rows x units x concepts at a time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BUDGET = 1 << 27


class Detection(NamedTuple):
    """`ap` and `auc`, both [concept, unit] float32."""

    ap: Tensor
    auc: Tensor


@torch.no_grad()
def average_precision(responses: Tensor, positive: Tensor, valid: Tensor, *, budget_bytes: int = BUDGET) -> Detection:
    """How well each unit of `responses` [row, unit] detects each concept of `positive` [row, concept] (bool) among `valid`
    rows.

    NaN where a concept has no positives or no negatives.
    """
    n_rows, n_concepts = positive.shape
    at_once = max(1, budget_bytes // (6 * 4 * max(1, n_rows * n_concepts)))
    parts = [_detect(part, positive & valid, valid & ~positive) for part in responses.float().split(at_once, dim=1)]
    return Detection(*(torch.cat(column, 1) for column in zip(*parts, strict=True)))


def _detect(responses: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    values, order = responses.sort(0, descending=True)
    start, end = _steps(values)
    hits, misses = positive[order].float(), negative[order].float()  # [rank, unit, concept]
    above_hits, above_misses = hits.cumsum(0), misses.cumsum(0)
    up_to = end[..., None].expand_as(hits)
    inside_hits, inside_misses = above_hits.gather(0, up_to), above_misses.gather(0, up_to)
    before = (start - 1).clamp_min(0)[..., None].expand_as(hits)
    outside = torch.where(start[..., None] > 0, above_misses.gather(0, before), 0.0)
    n_hits, n_misses = above_hits[-1], above_misses[-1]
    precision = inside_hits / (inside_hits + inside_misses).clamp_min(1)
    ap = (hits * precision).sum(0) / n_hits
    auc = 1 - (hits * (outside + inside_misses)).sum(0) / (2 * n_hits * n_misses)
    ap = torch.where(n_misses > 0, ap, torch.nan)
    return ap.T, auc.T


def _steps(values: Tensor) -> tuple[Tensor, Tensor]:
    """First and last rank of the run of equal values that each rank lies in, both [rank, unit]."""
    n = len(values)
    ranks = torch.arange(n, device=values.device)[:, None].expand_as(values)
    changes = values[1:] != values[:-1]
    first = torch.cat([torch.ones_like(changes[:1]), changes]) if n > 1 else torch.ones_like(values, dtype=torch.bool)
    last = torch.cat([changes, torch.ones_like(changes[:1])]) if n > 1 else torch.ones_like(values, dtype=torch.bool)
    start = torch.where(first, ranks, 0).cummax(0).values
    end = torch.where(last, ranks, n - 1).flip(0).cummin(0).values.flip(0)
    return start, end
