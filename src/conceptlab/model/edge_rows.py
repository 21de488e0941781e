"""Pairs of rows of one length on which circuits run: both recorded runs, and how what every sender wrote differs between them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.model.batch import Batch
from conceptlab.model.edge_graph import Pieces, record_pieces
from conceptlab.model.half_block import HalfBlocks
from conceptlab.model.model import Model
from conceptlab.model.sweep.plan import FOUR, bytes_per_token
from conceptlab.results import GraphShape
from conceptlab.runs.estimate import size

Ablation = Literal["resample", "zero"]

WHOLE = 5  # a row is recorded through the whole model in one go, circuits run block by block


@dataclass(frozen=True, eq=False)
class Reference:
    """What senders outside a circuit carry: streams as in Pieces, and the corrupted run itself (None: nothing is written)."""

    pre: Tensor
    mid: Tensor
    run: Pieces | None


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of one length with both runs: `delta` [sender, row, pos, d_model] is clean minus corrupted, `differs` [sender] where it
    is not 0. `numbers` are these rows' places in the whole batch."""

    shape: GraphShape
    numbers: tuple[int, ...]
    clean: Pieces
    reference: Reference
    delta: Tensor
    halves: HalfBlocks

    @cached_property
    def differs(self) -> np.ndarray:
        """Which senders wrote something else in the corrupted run."""
        return (self.delta != 0).flatten(1).any(1).cpu().numpy()


def record_rows(  # noqa: PLR0913 - what is recorded
    model: Model,
    clean: Batch,
    corrupted: Batch | None,
    numbers: tuple[int, ...],
    shape: GraphShape,
    between: Callable[[], None] = lambda: None,
) -> Rows:
    """Record clean rows with their corrupted ones (None: senders outside a circuit write nothing), `between` in the middle."""
    ours = record_pieces(model, clean, shape)
    written = ours.written()
    if corrupted is None:
        return Rows(shape, numbers, ours, _nothing(shape, ours, written), written, HalfBlocks(ours.run))
    between()
    theirs = record_pieces(model, corrupted, shape)
    between()
    reference = Reference(theirs.pre, theirs.mid, theirs)
    return Rows(shape, numbers, ours, reference, written - theirs.written(), HalfBlocks(ours.run))


def _nothing(shape: GraphShape, clean: Pieces, written: Tensor) -> Reference:
    """What is left of the streams when no sender writes: biases."""
    first = np.searchsorted(shape.senders.layer, np.arange(shape.n_layers + 1))
    pre = torch.stack([stream - written[:n].sum(0) for stream, n in zip(clean.pre, first.tolist(), strict=True)])
    heads = 0 if shape.parallel else shape.n_heads
    mid = torch.stack(
        [stream - written[: n + heads].sum(0) for stream, n in zip(clean.mid, first.tolist()[:-1], strict=True)]
    )
    return Reference(pre, mid, None)


def row_bytes(model: Model, shape: GraphShape, n_pos: int) -> int:
    """What both recorded runs hold of a row of `n_pos` tokens."""
    heads = 2 * (2 * shape.n_heads + 2 * shape.n_kv_heads) * model.stack.d_head * shape.n_layers
    width = (len(shape.senders) + 8 * shape.n_layers) * model.d_model + heads
    return FOUR * n_pos * width


def groups_of(
    model: Model, batch: Batch, shape: GraphShape, budget: int, tokens: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Rows of one length, as many together as the budget holds beside one circuit, or as a piece of `tokens` allows."""
    groups = []
    for n_pos in sorted(set(batch.lengths)):
        state = FOUR * n_pos * len(shape.senders) * model.d_model
        least = row_bytes(model, shape, n_pos) + 2 * state + n_pos * bytes_per_token(model)
        if 2 * least > budget:
            raise InputError(
                f"a memory budget of {size(budget)} is too small: one row of {n_pos} tokens with its circuit needs "
                f"{size(2 * least)}; give at least that"
            )
        rows, at_once = (
            [r for r, n in enumerate(batch.lengths) if n == n_pos],
            max(1, min(budget // (2 * least), len(batch) if tokens is None else tokens // (WHOLE * n_pos))),
        )
        groups += [tuple(rows[i : i + at_once]) for i in range(0, len(rows), at_once)]
    return tuple(groups)
