"""The pass that every lens shares: the stream at all layers and some positions, read out layer by layer in pieces that fit.

Logits of [layer, token, d_vocab] are never held: a piece is some tokens at one layer, and its reader keeps what it wants.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.layout import Positions
from conceptlab.model.model import Texts

BUDGET_BYTES = 2**27


class Translator(Protocol):
    """Maps the stream of one layer (0: embedding, 1: after block 0, ...) to what the last block would have left."""

    def translate(self, at: int, stream: Tensor) -> Tensor:
        """[token, d_model] of the layer axis' place `at` to [token, d_model]."""
        ...


@dataclass(frozen=True, eq=False)
class Streams:
    """`values` [token, layer, d_model] with layers `labels` (embed, 0, 1, ...); row and position of each token; its `input` id."""

    values: Tensor
    labels: tuple[str, ...]
    row: np.ndarray
    position: np.ndarray
    input: Tensor
    batch: Batch


def record_streams(model: Model, texts: Texts, positions: Positions) -> Streams:
    """One forward: embedding and every block's output at the asked positions. Raises SiteError where the model has no lens."""
    model.lens(torch.zeros(1, model.d_model, dtype=model.unembedding.dtype, device=model.unembedding.device))
    batch = model.encode(texts)
    acts = model.capture(batch, ["embed", "resid_post"], positions=positions)
    values = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1)
    ids = [batch.ids[r][p] for r, p in zip(acts.row.tolist(), acts.position.tolist(), strict=True)]
    labels = ("embed", *map(str, range(model.n_layers)))
    return Streams(values, labels, acts.row, acts.position, torch.tensor(ids), batch)


def token_chunks(n_tokens: int, d_vocab: int, budget_bytes: int = BUDGET_BYTES) -> Iterator[slice]:
    """Slices of tokens whose float32 logits, held a few times over, stay within the budget (at least one token)."""
    size = max(1, budget_bytes // (4 * d_vocab * 4))
    for start in range(0, n_tokens, size):
        yield slice(start, min(start + size, n_tokens))


@torch.no_grad()
def lens_pieces(
    model: Model, streams: Streams, translator: Translator | None = None, budget_bytes: int = BUDGET_BYTES
) -> Iterator[tuple[slice, int, Tensor, Tensor]]:
    """(tokens, place on the layer axis, log-probabilities there, log-probabilities at the end), both [chunk, d_vocab] float32.

    The last place is the model's own output and is never translated.
    """
    last = len(streams.labels) - 1
    for tokens in token_chunks(len(streams.values), model.unembedding.shape[0], budget_bytes):
        final = log_probs(model, streams.values[tokens, last])
        for at in range(last):
            stream = streams.values[tokens, at]
            stream = stream if translator is None else translator.translate(at, stream).to(stream.dtype)
            yield tokens, at, log_probs(model, stream), final
        yield tokens, last, final, final


def log_probs(model: Model, stream: Tensor) -> Tensor:
    """log P [token, d_vocab] float32 of the lens of a stream [token, d_model]."""
    return model.lens(stream).float().log_softmax(-1)
