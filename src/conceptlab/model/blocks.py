"""One clean run kept block by block, so that any block can be called again alone: on another stream, with the run's side inputs.

What a block reads beside its stream (rotary angles, masks) was made by the model itself in the clean run. Rows have equal length,
so that there is no padding. Cost of recording: one forward without the unembedding; memory (L + 1) x rows x pos x d_model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from conceptlab.errors import InputError, ModelError
from conceptlab.model.batch import Batch
from conceptlab.model.instrument import Placed
from conceptlab.model.layout import Layout
from conceptlab.model.model import Model
from conceptlab.model.side_inputs import Axes, Path, Side, recording


@dataclass(frozen=True, eq=False)
class CleanRun:
    """`streams` [layer + 1, row, pos, d_model]: what enters each block, and what leaves the last one. `ids` [row, pos]."""

    model: Model
    ids: Tensor
    streams: Tensor
    sides: tuple[Side, ...]
    axes: list[dict[Path, Axes]] = field(repr=False)

    @property
    def n_rows(self) -> int:
        """Rows of the clean batch."""
        return self.ids.shape[0]

    @property
    def n_pos(self) -> int:
        """Tokens per row."""
        return self.ids.shape[1]

    def block(self, layer: int, stream: Tensor, rows: Tensor | None = None) -> Tensor:
        """Block `layer` on `stream` [k, pos, d_model] with the side inputs of clean rows `rows` [k] (None: the rows themselves).

        Gives what leaves the block. Works under autograd and under `model.instrument.visiting`; no gradient is switched off here.
        """
        rows = torch.arange(self.n_rows, device=stream.device) if rows is None else rows
        if len(rows) != len(stream):
            raise InputError(f"a stream of {len(stream)} rows came with {len(rows)} row numbers")

        def select(path: Path, tensor: Tensor) -> Tensor:
            axis = self.axes[layer].get(path, Axes(None, ())).row
            return tensor if axis is None else _of_rows(tensor, axis, rows, self.n_rows)

        return self._call(layer, self.sides[layer].mapped(select), stream)

    def packed_block(self, layer: int, stream: Tensor, rows: Tensor, pos: Tensor) -> Tensor:
        """Block `layer` on tokens [1, token, d_model] that stand at `rows` [token] and `pos` [token] of the clean run.

        What mixes tokens (attention) must be taken care of by whoever calls this.
        """

        def select(path: Path, tensor: Tensor) -> Tensor:
            return _packed(tensor, self.axes[layer].get(path, Axes(None, ())), rows, pos)

        return self._call(layer, self.sides[layer].mapped(select), stream)

    def _call(self, layer: int, side: Side, stream: Tensor) -> Tensor:
        block, instrument = self.model.stack.blocks[layer], self.model.instrument
        before, instrument.layout = instrument.layout, Layout.from_mask(None, stream.shape[0], stream.shape[1])
        try:
            out = side.call(block.module, block.taps["resid_pre"].key, stream)
        finally:
            instrument.layout = before
        key = block.taps["resid_post"].key
        return out if key is None else out[key]


def _of_rows(tensor: Tensor, axis: int, rows: Tensor, n_rows: int) -> Tensor:
    """Chosen rows along an axis that holds one entry a row, or several together (ALiBi: one a row and head)."""
    each, rows = tensor.shape[axis] // n_rows, rows.to(tensor.device)
    index = rows if each == 1 else (rows[:, None] * each + torch.arange(each, device=tensor.device)).flatten()
    return tensor.index_select(axis, index)


def _packed(tensor: Tensor, axes: Axes, rows: Tensor, pos: Tensor) -> Tensor:
    """A side input for tokens in one row: one position axis is gathered; masks (two position axes) are left as they are."""
    if len(axes.pos) != 1:
        return tensor
    rows, pos = rows.to(tensor.device), pos.to(tensor.device)
    if axes.row is None:
        return tensor.index_select(axes.pos[0], pos)
    if (axes.row, axes.pos[0]) == (0, 1):
        return tensor[rows, pos][None]
    moved = tensor.movedim((axes.row, axes.pos[0]), (0, 1))[rows, pos][None]
    return moved.movedim((0, 1), (axes.row, axes.pos[0]))


def equal_lengths(batch: Batch) -> int:
    """The one length of all rows. Raises InputError where they differ."""
    lengths = set(batch.lengths)
    if len(lengths) != 1:
        raise InputError(
            f"rows have {min(lengths, default=0)} to {max(lengths, default=0)} tokens; give rows of one length"
        )
    return lengths.pop()


def record_run(model: Model, batch: Batch, extra: Sequence[Placed] = ()) -> CleanRun:
    """Run rows of equal length once and keep what calling single blocks needs; `extra` visits see the same forward.

    Raises InputError for rows of unequal length and ModelError where a block was not reached or the model reads no text alone.
    """
    if not model.reads_text:
        raise ModelError(f"{model.name} does not read text alone, so its blocks cannot be called again from tokens")
    equal_lengths(batch)
    streams: list[Tensor] = []

    def keep(view: Tensor) -> None:
        streams.append(view.detach().clone())

    visits: list[Placed] = [(model.tap("resid_pre", i), i, False, keep) for i in range(model.n_layers)]
    visits += [(model.tap("resid_post", model.n_layers - 1), None, False, keep), *extra]  # type: ignore[list-item]
    ids = torch.tensor(batch.ids, device=model.device)
    with model.instrument.visiting(visits), recording(model) as sides, torch.no_grad():
        model._forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, stop_after=model.n_layers - 1)
    found = tuple(side for side in sides if side is not None)
    if len(found) < model.n_layers or len(streams) <= model.n_layers:
        raise ModelError(f"{model.name}: a block was not reached by its own forward, so it cannot be called again")
    return CleanRun(model, ids, torch.stack(streams), found, model.side_axes)
