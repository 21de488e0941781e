"""Blocks at which a unit joins: its queries, keys and values are the clean ones wherever its stream is, so they are not made again.

Only the changed tokens go through the projections; what attention makes of them and of the kept rest is handed to the block, whose
own projections (the matrices that ran before attention in the clean run) stand still meanwhile. A change behind attention needs no
attention at all. Saves a quarter of the joining block's arithmetic. `strategy.py` tries on each model whether this is exact.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

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


def late_z(seen: "Seen", live: "Live", first: int, made: Made | None, changed: np.ndarray) -> Tensor:
    """z [token, head, d_head] of the tokens from `first` on (-1: from each unit's own first) of units that join.

    `changed` are the places of their changed tokens, in the order in which `made` has them.
    """
    at = live.first if first < 0 else np.full(len(live.first), first)
    if made is None:
        rows, pos = _places(live, at)
        return seen.z[rows, pos]
    unit = np.searchsorted(live.offset, changed, side="right") - 1
    pos = changed - live.offset[unit] + live.first[unit]
    parts = []
    for units in np.split(np.arange(len(at)), np.flatnonzero(np.diff(at)) + 1):
        mine = np.flatnonzero((unit >= units[0]) & (unit <= units[-1]))
        parts.append(_mixed(seen, live, units, int(at[units[0]]), made, (mine, unit[mine] - units[0], pos[mine])))
    return torch.cat(parts)


def _mixed(  # noqa: PLR0913 - private half of late_z
    seen: "Seen",
    live: "Live",
    units: np.ndarray,
    first: int,
    made: Made,
    cells: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Tensor:
    """Attention of units side by side that start at one position."""
    rows = torch.from_numpy(live.work.row[units])
    mine, unit, pos = (torch.from_numpy(c) for c in cells)
    q, k, v = seen.q[rows][:, :, first:], seen.k[rows], seen.v[rows]
    k[unit, :, pos], v[unit, :, pos] = made.k[0][:, mine].transpose(0, 1), made.v[0][:, mine].transpose(0, 1)
    read = pos >= first
    q[unit[read], :, pos[read] - first] = made.q[0][:, mine[read]].transpose(0, 1)
    z = made.delegate(made.module, q, k, v, seen.mask_from(first, rows), **made.kwargs)[0]
    return z.flatten(0, 1)


def _places(live: "Live", first: np.ndarray) -> tuple[Tensor, Tensor]:
    """Clean row and position of every token of units that start at `first` [unit]."""
    counts = live.n_pos - first
    within = np.arange(int(counts.sum())) - (np.cumsum(counts) - counts).repeat(counts)
    return torch.from_numpy(live.work.row.repeat(counts)), torch.from_numpy(within + first.repeat(counts))


@contextmanager
def standing_still(projections: Sequence[tuple[nn.Module, int]]) -> Iterator[None]:
    """These modules give zeros of their width while the context is open, whatever they are given."""
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for module, width in projections:
            replaced.append((module, module.__dict__.get("forward")))
            module.forward = _zeros(width)  # type: ignore[method-assign]
        yield
    finally:
        for module, own in replaced:
            del module.forward
            if own is not None:
                module.forward = own  # type: ignore[method-assign]


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
