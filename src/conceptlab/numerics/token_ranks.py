"""Ranks of chosen entries in long rows of scores, without sorting them."""

import torch
from torch import Tensor


def ranks(logits: Tensor, ids: Tensor) -> Tensor:
    """Rank [token, k] of `ids` [token, k] among logits [token, d_vocab]: 1 for the largest; ties share their middle rank."""
    own = logits.gather(1, ids.to(logits.device))
    found = [(logits > v).sum(-1) + ((logits == v).sum(-1) + 1) / 2 for v in own[:, :, None].unbind(1)]
    return torch.stack(found, 1)
