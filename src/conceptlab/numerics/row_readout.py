"""What one keeps of long rows of logits: their largest entries, log-sum, entropy, and the log-probability and rank of chosen
entries.

Rows are read in blocks that stay in the cache, because a row of a vocabulary is read several times: for the maxima of its groups,
for the exponentials, and once for each chosen entry. The k largest of a row lie in the k groups with the largest maxima, so only
those groups are searched. Exact against sorting and `log_softmax` up to rounding.
"""

from math import isqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK_BYTES = 1 << 21  # with as much space beside it, what the cores' own caches hold
SMALL = 4096  # columns up to which a row is searched whole


class RowReadout(NamedTuple):
    """`top`, `top_ids` [row, k], the largest first, `log_sum` and `entropy` [row], `log_prob` and `rank` [row, n] of the chosen."""

    top: Tensor
    top_ids: Tensor
    log_sum: Tensor
    entropy: Tensor
    log_prob: Tensor
    rank: Tensor


@torch.no_grad()
def read_rows(logits: Tensor, ids: Tensor, k: int, *, block_bytes: int = BLOCK_BYTES) -> RowReadout:
    """Read rows `logits` [row, column]; `ids` [row, n] are the chosen columns, `k` is at most the number of columns.

    `top` holds log-probabilities; a rank is 1 for the largest entry, and entries that tie share their middle rank. Entropy in nats.
    """
    n, width = logits.shape
    size = max(2, block_bytes // (4 * width))
    space = torch.empty(min(size, n), width, device=logits.device)
    ids, top, top_ids = ids.to(logits.device), *largest(logits, k)
    peak, mean, rank = torch.empty(n, 1), torch.empty(n), torch.empty(ids.shape)
    peak, mean, rank = (part.to(logits.device) for part in (peak, mean, rank))
    chosen = logits.gather(1, ids)
    for at in range(0, n, size):
        here = slice(at, at + size)
        x = logits[here].float()
        prob = torch.softmax(x, 1, out=space[: len(x)])
        torch.gather(prob, 1, top_ids[here, :1], out=peak[here])
        mean[here] = torch.stack([torch.dot(p, row) for p, row in zip(prob, x, strict=True)])
        for i in range(ids.shape[1]):
            rank[here, i] = _rank(x, chosen[here, i].float())
    for row in (~mean.isfinite()).nonzero().flatten().tolist():  # minus infinity, of tokens that never come, times zero
        x = logits[row].float()
        mean[row] = (x.softmax(0) * x).nan_to_num(0.0).sum()
    top, chosen = top.float(), chosen.float()
    log_sum = top[:, 0] - peak[:, 0].log()
    return RowReadout(top - log_sum[:, None], top_ids, log_sum, log_sum - mean, chosen - log_sum[:, None], rank)


@torch.no_grad()
def read_chosen(logits: Tensor, ids: Tensor, log_sum: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability and rank [row, n] of columns `ids` [row, n] alone, in rows [row, column] whose `log_sum` [row] is known."""
    rank = [
        torch.stack([_rank(row[None].float(), row[i : i + 1].float())[0] for i in own])
        for row, own in zip(logits, ids.tolist(), strict=True)
    ]
    return logits.float().gather(1, ids.to(logits.device)) - log_sum[:, None], torch.stack(rank)


def _rank(x: Tensor, value: Tensor) -> Tensor:
    """Rank [row] of a value that stands in its row, entries that tie sharing their middle rank."""
    if x.device.type == "cpu":  # counting truths that stay in the cache costs a tenth of summing them
        rows = zip(x.numpy(), value.tolist(), strict=True)
        counts = [2 * np.count_nonzero(row > v) + np.count_nonzero(row == v) for row, v in rows]
        return (torch.tensor(counts, dtype=torch.float32) + 1) / 2
    return ((x > value[:, None]).sum(1) + (x >= value[:, None]).sum(1) + 1) / 2


def largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns [row, k] of the k largest entries of every row [row, column]."""
    n = x.shape[1]
    width = max(64, isqrt(n))
    groups = n // width
    if n <= SMALL or groups < 4 * k:
        return x.topk(k, 1)
    whole = groups * width
    highest = x[:, :whole].unflatten(1, (groups, width)).amax(2)
    best = highest.topk(k, 1, sorted=False).indices
    places = (best[:, :, None] * width + torch.arange(width, device=x.device)).flatten(1)
    rest = torch.arange(whole, n, device=x.device).expand(len(x), -1)
    places = torch.cat([places, rest], 1)
    found, at = x.gather(1, places).topk(k, 1)
    return found, places.gather(1, at)
