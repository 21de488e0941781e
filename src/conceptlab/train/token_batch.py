"""TokenBatch: token ids with the loss weight of predicting each one, and the loss that reads both."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids [batch, pos] and, aligned with them, the loss weight of predicting each one (0 for `<bos>` and pads).

    Shorter rows are padded on the right: a causal model's real tokens never see the pads.
    """

    ids: Tensor
    weights: Tensor


def masked_loss(model: nn.Module, batch: TokenBatch, device: torch.device | str) -> Tensor:
    """Weighted mean cross-entropy of each next token, nats; the weight of the first token of a row is never read."""
    ids, weights = batch.ids.to(device), batch.weights.to(device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (each * wanted).sum() / wanted.sum()
