"""One layer of one site as an array over all tokens of a store: mapped from disk or read in spans, checked block by block as it is
first touched."""

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, ResultError
from conceptlab.runs.blocks import BLOCK, FileRecord
from conceptlab.runs.place import Place
from conceptlab.runs.sealed import Damaged
from conceptlab.store.shard_files import read_header

ADVICE = "`conceptlab store verify` lists what is damaged and `conceptlab store repair` computes it again"


class ShardFile:
    """The values [token, …] of one shard. Local files are mapped, others fetched a block at a time and kept."""

    def __init__(self, place: Place, name: str, record: FileRecord, *, verify: bool = True) -> None:
        self.place, self.name, self.record, self.verify = place, name, record, verify
        self.checked = np.zeros(len(record.blocks), dtype=bool)
        self._bytes = self._mapped()
        if len(self._bytes) != record.size:
            raise self._error(f"{name} has {len(self._bytes):,} bytes, {record.size:,} were written")
        self._touch(0, min(record.size, 4096))
        try:
            self.start, self.shape, dtype = read_header(bytes(self._bytes[:4096]))
        except (ValueError, KeyError) as error:
            raise self._error(f"{name}: {error}") from error
        self.dtype = getattr(torch, dtype)

    def _mapped(self) -> "mmap.mmap | bytearray":
        path = self.place.local(self.name)
        if path is None:
            size = self.place.size(self.name)
            self.fetched = np.zeros(len(self.record.blocks), dtype=bool)
            return bytearray(size if size is not None else 0)
        self.fetched = np.ones(len(self.record.blocks), dtype=bool)
        try:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants memory it could write to
        except (OSError, ValueError) as error:
            raise self._error(f"{self.name} is missing or empty") from error

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, end: int) -> Tensor:
        """Tokens start to end [token, …], a view of the mapped file."""
        count = int(np.prod(self.shape[1:]))
        width = count * self.dtype.itemsize
        self._touch(self.start + start * width, self.start + end * width)
        if end <= start:
            return torch.empty((0, *self.shape[1:]), dtype=self.dtype)
        flat = torch.frombuffer(
            self._bytes, dtype=self.dtype, count=(end - start) * count, offset=self.start + start * width
        )
        return flat.reshape(end - start, *self.shape[1:])

    def _touch(self, start: int, end: int) -> None:
        """Fetch and check the blocks that hold bytes start to end, each once."""
        for index in range(start // BLOCK, -(-end // BLOCK)):
            first, last = index * BLOCK, min((index + 1) * BLOCK, self.record.size)
            if not self.fetched[index]:
                self._bytes[first:last] = self.place.span(self.name, first, last)
                self.fetched[index] = True
            if self.verify and not self.checked[index]:
                try:
                    self.record.check_block(self.name, index, memoryview(self._bytes)[first:last])
                except Damaged as error:
                    raise self._error(str(error)) from error
                self.checked[index] = True

    def _error(self, what: str) -> ResultError:
        return ResultError(f"{self.place.url}/{what}; {ADVICE}")


class Part(Sequence[Tensor]):
    """Values of one site and layer over a store's kept tokens, in stored order: `part[5]`, `part[10:20]`, `part[[3, 7]]`.

    `dtype`, `shape` [token, …]; `numpy(a, b)` gives a mapped array without a copy where the span lies in one shard.
    """

    def __init__(self, files: Sequence[ShardFile], shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.files = files
        self.starts = np.concatenate([[0], np.cumsum([len(file) for file in files])]).astype(np.int64)
        self.shape, self.dtype = (int(self.starts[-1]), *shape), dtype

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
        found = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        shard = np.searchsorted(self.starts, index, side="right") - 1
        for number in np.unique(shard):
            rows = (shard == number).nonzero()[0]
            inside = index[rows] - self.starts[number]
            low, high = int(inside.min()), int(inside.max()) + 1
            dense = high - low <= 4 * len(inside)
            if dense:
                found[rows] = self.files[number].read(low, high)[inside - low]
            else:
                for row, token in zip(rows, inside.tolist(), strict=True):
                    found[row] = self.files[number].read(token, token + 1)[0]
        return found

    def numpy(self, start: int = 0, end: int | None = None) -> np.ndarray:
        """The same as `read` for numpy. Raises InputError for bfloat16, which numpy does not have."""
        if self.dtype == torch.bfloat16:
            raise InputError("numpy has no bfloat16; read torch tensors, or export the store")
        return self.read(start, len(self) if end is None else end).numpy()

    def _spans(self, start: int, end: int) -> Iterator[tuple[ShardFile, int, int]]:
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        for number in range(max(first, 0), len(self.files)):
            a, b = max(start - self.starts[number], 0), min(end - self.starts[number], len(self.files[number]))
            if a >= b:
                if self.starts[number] >= end:
                    return
                continue
            yield self.files[number], int(a), int(b)
