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
        rows, cols = [], []
        for row in range(self.n_rows):
            real = self._positions(positions, row)
            column = real + self.pad_left[row] - offset
            column = column[(column >= 0) & (column < n_cols)]
            cols.append(column)
            rows.append(torch.full_like(column, row))
        return torch.cat(rows), torch.cat(cols)

    def _positions(self, positions: Positions, row: int) -> Tensor:
        length, prompt = int(self.length[row]), int(self.prompt[row])
        if isinstance(positions, str):
            if positions == "all":
                return torch.arange(length)
            if positions == "last":
                return torch.tensor([prompt - 1])
            raise SiteError(f"positions {positions!r} are not known; use 'all', 'last' or real-token indices")
        chosen = positions[row] if len(positions) and isinstance(positions[0], (list, tuple)) else positions
        index = torch.as_tensor([p + prompt if p < 0 else p for p in chosen], dtype=torch.long)  # type: ignore[operator, union-attr]
        if bool((index < 0).any()):
            raise SiteError(
                f"a position lies before the first token: row {row} has {prompt} real tokens, asked were {chosen}"
            )  # type: ignore[arg-type]
        return index

    def everything(self, positions: Positions) -> bool:
        """All tokens of this forward are real and asked for, so no gather is needed."""
        return positions == "all" and bool((self.length - self.offset == self.n_cols).all())
