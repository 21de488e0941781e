"""Where the tokens of the units that are running lie: one row of tokens, unit after unit, those that start alike side by side."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.model.sweep.work import Work


@dataclass(frozen=True, eq=False)
class Live:
    """Units at one block, sorted by `first` position; each has the tokens from `first` to the last, at `offset` [unit]."""

    work: Work
    number: np.ndarray  # [unit] of the pass
    first: np.ndarray
    n_pos: int

    @property
    def counts(self) -> np.ndarray:
        """Tokens [unit]."""
        return self.n_pos - self.first

    @property
    def offset(self) -> np.ndarray:
        """Place of the first token [unit]."""
        return np.cumsum(self.counts) - self.counts

    @property
    def n_tokens(self) -> int:
        """All tokens."""
        return int(self.counts.sum())

    def places(self) -> tuple[Tensor, Tensor]:
        """Clean row and position [token]."""
        within = np.arange(self.n_tokens) - self.offset.repeat(self.counts)
        pos = within + self.first.repeat(self.counts)
        return torch.from_numpy(self.work.row.repeat(self.counts)), torch.from_numpy(pos)

    def groups(self, apart: np.ndarray) -> list[tuple[np.ndarray, int]]:
        """Runs of units with one first position, (units, first token); units marked in `apart` [unit] are runs of their own."""
        change = np.flatnonzero((np.diff(self.first) != 0) | (np.diff(apart.astype(int)) != 0)) + 1
        return [(part, int(self.offset[part[0]])) for part in np.split(np.arange(len(self.first)), change) if len(part)]

    def tokens_of(self, unit: np.ndarray, pos: np.ndarray) -> np.ndarray:
        """Places of tokens at `pos` of `unit` (both [cell])."""
        return self.offset[unit] + pos - self.first[unit]

    def pieces(self, most_tokens: int) -> list["Live"]:
        """Units side by side in pieces of about equal size, of at most `most_tokens` tokens or hardly more (at least one unit)."""
        each = self.n_tokens / max(
            1, -(-self.n_tokens // most_tokens)
        )  # a small rest would cost as much as a whole piece
        piece = ((np.cumsum(self.counts) - 1) / max(each, 1.0)).astype(np.int64)
        cut = np.flatnonzero(np.diff(piece)) + 1
        parts = np.split(np.arange(len(self.first)), cut)
        return [self.part(p) for p in parts if len(p)]

    def part(self, units: np.ndarray) -> "Live":
        """Units side by side."""
        return Live(self.work.select(units), self.number[units], self.first[units], self.n_pos)


def live_at(work: Work, layer: int, n_pos: int, *, apart: bool) -> Live:
    """The units of a pass that run at block `layer`; with `apart` those that join there come last."""
    index = np.flatnonzero(work.join <= layer)
    index = index[np.lexsort((work.join[index], work.start[index], apart & (work.join[index] == layer)))]
    chosen = work.select(index)
    return Live(chosen, index, chosen.start, n_pos)


def at_last(live: Live) -> Live:
    """The same units with their last token alone."""
    return Live(live.work, live.number, np.full(len(live.first), live.n_pos - 1), live.n_pos)


def moved(old: Live, new: Live) -> np.ndarray:
    """Where each token of `old` lies in `new`, which holds the same units and more."""
    place = np.zeros(int(new.number.max(initial=0)) + 1, dtype=np.int64)
    place[new.number] = new.offset
    shift = place[old.number] - old.offset
    return np.arange(old.n_tokens) + shift.repeat(old.counts)


def joined(old: Live | None, new: Live) -> np.ndarray:
    """Units of `new` that `old` does not hold."""
    known = np.zeros(0, dtype=np.int64) if old is None else old.number
    return np.flatnonzero(~np.isin(new.number, known))
