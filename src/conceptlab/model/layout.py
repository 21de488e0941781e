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
    def from_mask(cls, mask: Tensor | None, n_rows: int, n_cols: int, prompt: Tensor | None = None) -> "Layout":
        """Read the layout off an attention mask [row, all columns so far]; without a mask every token is real."""
        if mask is None or mask.dim() != 2 or mask.shape[0] != n_rows or mask.shape[1] < n_cols:
            full = torch.full((n_rows,), n_cols)
            return cls(
                n_rows, n_cols, 0, torch.zeros(n_rows, dtype=torch.long), full, full if prompt is None else prompt
            )
        mask = mask.detach().cpu().bool()
        length = mask.sum(1)
        pad_left = torch.where(length > 0, mask.int().argmax(1), 0)
        return cls(n_rows, n_cols, mask.shape[1] - n_cols, pad_left, length, length if prompt is None else prompt)

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
                f"a position lies before the first token: row {row} has {prompt} real tokens, asked were {list(chosen)}"
            )  # type: ignore[arg-type]
        return index

    def everything(self, positions: Positions) -> bool:
        """All tokens of this forward are real and asked for, so no gather is needed."""
        return positions == "all" and bool((self.length - self.offset == self.n_cols).all())
