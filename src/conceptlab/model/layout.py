"""Where the real tokens of a padded forward are: rows, columns, padding on either side, and what a KV cache already holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import SiteError

Positions = str | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Layout:
    """Rows of one forward. `pad_left` and `length` [row] count padding before and real tokens (cached ones included),
    `offset` the columns that came in earlier forwards, `prompt` [row] the real tokens of the prompt alone."""

    n_rows: int
    n_cols: int
    offset: int
    pad_left: Tensor
    length: Tensor
    prompt: Tensor

    @classmethod
    def from_mask(cls, mask: Tensor | None, n_rows: int, n_cols: int, cached: int = 0) -> "Layout":
        """Read the layout off an attention mask [row, all columns so far]; without a mask every token is real and `cached`
        columns came before."""
        if mask is None or mask.dim() != 2 or mask.shape[0] != n_rows or mask.shape[1] < n_cols:
            full = torch.full((n_rows,), n_cols + cached)
            return cls(n_rows, n_cols, cached, torch.zeros(n_rows, dtype=torch.long), full, full)
        mask = mask.detach().cpu().bool()
        length = mask.sum(1)
        pad_left = torch.where(length > 0, mask.int().argmax(1), 0)
        return cls(n_rows, n_cols, mask.shape[1] - n_cols, pad_left, length, length)

    @classmethod
    def generating(cls, prompt: Tensor, n_rows: int, n_cols: int, seen: int) -> "Layout":
        """A step of generation from left-padded prompts of `prompt` [row] real tokens after `seen` columns went through.

        Without a cache every step brings all columns again, one more than before; that is how the two are told apart.
        """
        offset = 0 if n_cols == seen + 1 else seen
        prompt = prompt.repeat_interleave(n_rows // len(prompt))
        pad_left = prompt.max() - prompt
        return cls(n_rows, n_cols, offset, pad_left, offset + n_cols - pad_left, prompt)

    def cells(
        self, positions: Positions, *, n_cols: int | None = None, offset: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Row and column indices of the asked positions that lie in this forward (`n_cols`, `offset` for the key axis)."""
        n_cols, offset = n_cols or self.n_cols, self.offset if offset is None else offset
        rows, real = self._chosen(positions)
        column = real + self.pad_left[rows] - offset
        inside = (column >= 0) & (column < n_cols)
        return rows[inside], column[inside]

    def _chosen(self, positions: Positions) -> tuple[Tensor, Tensor]:
        """Row and real-token position of everything asked for, row by row."""
        if isinstance(positions, str):
            if positions == "last":
                return torch.arange(self.n_rows), self.prompt - 1
            if positions != "all":
                raise SiteError(f"positions {positions!r} are not known; use 'all', 'last' or real-token indices")
            starts = self.length.cumsum(0) - self.length
            rows = torch.arange(self.n_rows).repeat_interleave(self.length)
            return rows, torch.arange(len(rows)) - starts[rows]
        ragged = len(positions) > 0 and isinstance(positions[0], (list, tuple))
        listed: list[Sequence[int]] = list(positions) if ragged else [positions] * self.n_rows  # type: ignore[arg-type, list-item]
        rows = torch.arange(self.n_rows).repeat_interleave(torch.tensor([len(p) for p in listed], dtype=torch.long))
        index = torch.tensor([p for chosen in listed for p in chosen], dtype=torch.long)
        index = torch.where(index < 0, index + self.prompt[rows], index)
        if bool((index < 0).any()):
            row = int(rows[index < 0][0])
            raise SiteError(
                f"a position lies before the first token: row {row} has {int(self.prompt[row])} real tokens, "
                f"asked were {list(listed[row])}"
            )
        return rows, index
