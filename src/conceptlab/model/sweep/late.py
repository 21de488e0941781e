"""Blocks at which a unit joins: its queries, keys and values are the clean ones wherever its stream is, so they are not made again.

Only the changed tokens go through the projections; what attention makes of them and of the kept rest is handed to the block, whose
own projections (the matrices that ran before attention in the clean run) stand still meanwhile. A change behind attention needs no
attention at all. Saves a quarter of the joining block's arithmetic. `strategy.py` tries on each model whether this is exact.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.model.stand_ins import standing_in

if TYPE_CHECKING:
    from conceptlab.model.sweep.clean import Seen
    from conceptlab.model.sweep.live import Live

BEFORE = ("q", "k", "v", "pattern")  # what is written there needs the projections as they are


@dataclass(frozen=True, eq=False)
class Made:
    """What the attention of one block was given for the changed tokens, and how it is called."""

    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    kwargs: dict[str, Any]
    delegate: Callable[..., Any]


def late_z(seen: "Seen", live: "Live", made: Made | None, changed: np.ndarray, *, last: bool) -> Tensor:
    """z [token, head, d_head] of units that join: of all their tokens, or of the last ones alone.

    `changed` are the places of their changed tokens, in the order in which `made` has them. All units attend in one call from the
    first position of any: many small calls cost more than the attention that they would leave out.
    """
    rows, pos = live.places()
    if last:
        ends = torch.from_numpy(live.offset + live.counts - 1)
        rows, pos = rows[ends], pos[ends]
    if made is None:
        return seen.z[rows, pos]
    device, first = seen.z.device, live.n_pos - 1 if last else int(live.first[0])
    row = torch.from_numpy(live.work.row).to(device)  # indices are moved once: every move to a GPU is a wait
    unit = np.searchsorted(live.offset, changed, side="right") - 1
    pair = torch.from_numpy(unit), torch.from_numpy(changed - live.offset[unit] + live.first[unit])
    where = pair[0].to(device), pair[1].to(device)
    q, k, v = (
        put(seen.q, row, where, made.q),
        put(seen.k, row, where, made.k),
        put(seen.v, row, where, made.v),
    )
    z = made.delegate(made.module, q[:, :, first:], k, v, seen.mask_from(first, row), **made.kwargs)[0]
    number = torch.arange(len(row)) if last else torch.from_numpy(np.arange(len(row)).repeat(live.counts))
    return z[number.to(device), (pos - first).to(device)]


def put(clean: Tensor, row: Tensor, where: tuple[Tensor, Tensor], made: Tensor) -> Tensor:
    """[unit, head, pos, d_head] of clean rows `row` [unit], with `made` [1, head, cell, d_head] at `where` (unit, position)."""
    found = clean.transpose(1, 2)[row]
    found[where] = made[0].transpose(0, 1)
    return found.transpose(1, 2)


def standing_still(projections: Sequence[tuple[nn.Module, int]]) -> AbstractContextManager[None]:
    """These modules give zeros of their width while the context is open, whatever they are given."""
    return standing_in((module, _zeros(width)) for module, width in projections)


def _zeros(width: int) -> Callable[..., Tensor]:
    def forward(x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x.new_zeros(*x.shape[:-1], width)

    return forward


class Noted:
    """Which matrices inside an attention module run before it mixes tokens, with the width of what they give."""

    def __init__(self, attention: nn.Module) -> None:
        self.found: list[tuple[nn.Module, int]] = []
        inner = [m for m in attention.modules() if any(p.dim() == 2 for p in m.parameters(recurse=False))]
        self._handles = [m.register_forward_hook(self._note) for m in inner]

    def _note(self, module: nn.Module, _: Any, out: Any) -> None:
        self.found.append((module, int(out.shape[-1])))

    def close(self) -> None:
        """Attention mixes now, or the run is over."""
        while self._handles:
            self._handles.pop().remove()
