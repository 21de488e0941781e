"""One layer of one site as an array over all tokens of a store."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.store.mapped import OpenFiles, ShardFile


class Part(Sequence[Tensor]):
    """Values of one site and layer over a store's kept tokens, in stored order: `part[5]`, `part[10:20]`, `part[[3, 7]]`.

    `dtype`, `shape` [token, …]; `numpy(a, b)` gives a mapped array without a copy where the span lies in one shard.
    """

    def __init__(
        self, starts: np.ndarray, open_file: Callable[[int], ShardFile], shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.starts, self.files = starts, OpenFiles(open_file)
        self.shape, self.dtype = (int(starts[-1]), *shape), dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN204 - int, slice or indices
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return self.read(start, max(start, stop))
        if isinstance(index, int | np.integer):
            where = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= where < len(self):
                raise IndexError(f"token {index} of {len(self):,} does not exist")
            return self.read(where, where + 1)[0]
        return self.take(np.asarray(index))

    def read(self, start: int, end: int) -> Tensor:
        """Tokens start to end [token, …]; a view where they lie in one shard, else a copy."""
        pieces = [file.read(a, b) for file, a, b in self._spans(start, end)]
        if not pieces:
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def take(self, index: np.ndarray) -> Tensor:
        """Any tokens [token, …] by number, a copy. Raises IndexError out of range."""
        if index.dtype == bool:
            index = index.nonzero()[0]
        if len(index) and not (-len(self) <= index.min() and index.max() < len(self)):
            raise IndexError(f"tokens {index.min()} to {index.max()} of {len(self):,} do not all exist")
        index = np.where(index < 0, index + len(self), index).astype(np.int64)
        if len(index) > 1 and (np.diff(index) < 0).any():
            order = np.argsort(index, kind="stable")
            back = np.empty_like(order)
            back[order] = np.arange(len(order))
            return self._rising(index[order])[torch.from_numpy(back)]
        return self._rising(index)

    def empty(self, n: int) -> Tensor:
        """Memory for `n` tokens [token, …]."""
        return torch.empty((n, *self.shape[1:]), dtype=self.dtype)

    def scatter(self, index: np.ndarray, out: Tensor, slots: np.ndarray) -> None:
        """Put tokens (in rising order) into `out` [slot, …] at their `slots`, reading and checking on the way."""
        for file, inside, rows in self._runs(index):
            file.scatter(inside, out, slots[rows])

    def _rising(self, index: np.ndarray) -> Tensor:
        """Tokens in rising order: each file gives a run of rows."""
        found = self.empty(len(index))
        for file, inside, rows in self._runs(index):
            file.touch_all(inside)
            torch.index_select(file.whole, 0, torch.from_numpy(inside), out=found[rows])
        return found

    def _runs(self, index: np.ndarray) -> Iterator[tuple[ShardFile, np.ndarray, slice]]:
        """Tokens in rising order, file by file: the file, the tokens inside it, and which of the asked ones they are."""
        start = 0
        while start < len(index):
            number = int(np.searchsorted(self.starts, index[start], side="right")) - 1
            end = start + int(np.searchsorted(index[start:], self.starts[number + 1]))
            yield self.files[number], index[start:end] - self.starts[number], slice(start, end)
            start = end

    def numpy(self, start: int = 0, end: int | None = None) -> np.ndarray:
        """The same as `read` for numpy. Raises InputError for bfloat16, which numpy does not have."""
        if self.dtype == torch.bfloat16:
            raise InputError("numpy has no bfloat16; read torch tensors, or export the store")
        return self.read(start, len(self) if end is None else end).numpy()

    def _spans(self, start: int, end: int) -> Iterator[tuple[ShardFile, int, int]]:
        """The files that hold tokens start to end, and which of their tokens."""
        while start < end:
            number = int(np.searchsorted(self.starts, start, side="right")) - 1
            first, after = int(self.starts[number]), int(self.starts[number + 1])
            yield self.files[number], start - first, min(end, after) - first
            start = after
