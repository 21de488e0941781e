"""The files of one layer of one site: mapped from disk or fetched a block at a time, checked block by block as they are first
touched; of thousands only the last used are open."""

import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import ResultError
from conceptlab.runs.blocks import BLOCK, FileRecord
from conceptlab.runs.place import Place, disk
from conceptlab.runs.sealed import Damaged
from conceptlab.store.shard_files import read_header

ADVICE = "`conceptlab store verify` lists what is damaged and `conceptlab store repair` computes it again"
STRETCH = 4 << 20  # bytes that are read at once
OPEN = 128  # files of a part that stay mapped


class ShardFile:
    """The values [token, …] of one shard. Local files are mapped, others fetched a block at a time and kept."""

    def __init__(self, place: Place, name: str, record: FileRecord, *, verify: bool = True) -> None:
        self.place, self.name, self.record, self.verify = place, name, record, verify
        self.checked = np.zeros(len(record.blocks), dtype=bool)
        self.advised = np.zeros(len(record.blocks), dtype=bool)
        self._path = place.local(name)  # looked up once: it is a dozen questions to the file system
        self._bytes = self._mapped()
        if len(self._bytes) != record.size:
            raise self._error(f"{name} has {len(self._bytes):,} bytes, {record.size:,} were written")
        with self._reader([(0, min(record.size, 4096))]) as read:
            header = bytes(read(0, min(record.size, 4096)))
        try:
            self.start, self.shape, dtype = read_header(header)
        except ValueError as error:
            raise self._error(f"{name}: {error}") from error
        self.dtype = getattr(torch, dtype)
        if self.start + math.prod(self.shape) * self.dtype.itemsize != record.size:
            raise self._error(f"{name} does not hold {list(self.shape)} values")

    def _mapped(self) -> "mmap.mmap | bytearray":
        path = self._path
        if path is None:
            size = self.place.size(self.name)
            self.fetched = np.zeros(len(self.record.blocks), dtype=bool)
            return bytearray(size if size is not None else 0)
        self.fetched = np.ones(len(self.record.blocks), dtype=bool)
        try:
            with disk(path, missing=True), path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants memory it could write to
        except (FileNotFoundError, ValueError) as error:
            raise self._error(f"{self.name} is missing or empty") from error

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, end: int) -> Tensor:
        """Tokens start to end [token, …], a view of the mapped file."""
        self.touch(start, end)
        return self.whole[start : max(start, end)]

    @cached_property
    def whole(self) -> Tensor:
        """Every token [token, …], a view of the file; only what `touch` was told of is fetched and checked."""
        count = math.prod(self.shape)
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(self._bytes, dtype=self.dtype, count=count, offset=self.start).reshape(self.shape)

    def touch(self, start: int, end: int) -> None:
        """Fetch and check what holds tokens start to end; other threads may do so at the same time."""
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        if end > start:
            self._touch(self.start + start * width, self.start + end * width)

    def touch_all(self, tokens: np.ndarray) -> None:
        """The same for tokens in rising order."""
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        if not width:
            return
        first, last = (self.start + tokens * width) // BLOCK, (self.start + (tokens + 1) * width - 1) // BLOCK
        steps = np.arange(1 + width // BLOCK + 1)[:, None]  # a token may lie in several blocks
        self._check(np.unique(np.minimum(first + steps, last)))

    def scatter(self, tokens: np.ndarray, out: Tensor, slots: np.ndarray) -> None:
        """Copy tokens (in rising order) into `out` at `slots`, a stretch of neighbours at a time, checked as they are read."""
        width = math.prod(self.shape[1:]) * self.dtype.itemsize
        if not width or not len(tokens):
            return
        rows = out.view(torch.uint8).reshape(len(out), width).numpy().view(f"V{width}")[:, 0]
        places = list(_stretches(tokens, max(1, STRETCH // width)))
        spans = [(self.start + int(tokens[a]) * width, self.start + (int(tokens[b]) + 1) * width) for a, b in places]
        with self._reader(spans) as read:
            for (first, last), span in zip(places, spans, strict=True):
                rows[slots[first : last + 1]] = np.frombuffer(read(*span), dtype=f"V{width}")

    @contextmanager
    def _reader(self, spans: list[tuple[int, int]]) -> "Iterator[Callable[[int, int], memoryview]]":
        """What gives checked bytes of the file, `spans` (start, end) of which will be asked for.

        Reading a local file costs less than touching its pages one by one.
        """
        path = self._path
        if path is None:
            yield self._held_bytes
            return
        with disk(path, missing=True), path.open("rb", buffering=0) as file:
            _announce(file.fileno(), spans)
            yield lambda start, end: self._read_bytes(file.fileno(), start, end)

    def _held_bytes(self, start: int, end: int) -> memoryview:
        self._touch(start, end)
        return memoryview(self._bytes)[start:end]

    def _read_bytes(self, descriptor: int, start: int, end: int) -> memoryview:
        """Bytes start to end; whole blocks are read where one of them is to be checked."""
        blocks = range(start // BLOCK, -(-end // BLOCK))
        wanted = [index for index in blocks if self.verify and not self.checked[index]]
        first = min(start, wanted[0] * BLOCK) if wanted else start
        last = max(end, min((wanted[-1] + 1) * BLOCK, self.record.size)) if wanted else end
        content = _read_whole(descriptor, first, last)
        if len(content) != last - first:
            raise self._error(f"{self.name} ends at byte {first + len(content):,} of {self.record.size:,}")
        for index in wanted:
            inside = content[index * BLOCK - first : min((index + 1) * BLOCK, self.record.size) - first]
            self._check_bytes(index, inside)
        return content[start - first : end - first]

    def _touch(self, start: int, end: int) -> None:
        self._check(np.arange(start // BLOCK, -(-end // BLOCK)))

    def _check(self, blocks: np.ndarray) -> None:
        """Have the system read blocks ahead, then fetch and check each, once."""
        ready = self.fetched & (self.checked if self.verify else self.advised)
        wanted = blocks[~ready[blocks]].tolist()
        if isinstance(self._bytes, mmap.mmap):
            for index in wanted:
                self._bytes.madvise(mmap.MADV_WILLNEED, index * BLOCK, min(BLOCK, self.record.size - index * BLOCK))
            self.advised[wanted] = True
        for index in wanted:
            self._check_block(index, index * BLOCK, min((index + 1) * BLOCK, self.record.size))

    def _check_block(self, index: int, first: int, last: int) -> None:
        if not self.fetched[index]:
            self._bytes[first:last] = self._fetch(first, last)
            self.fetched[index] = True
        if self.verify and not self.checked[index]:
            self._check_bytes(index, memoryview(self._bytes)[first:last])

    def _check_bytes(self, index: int, content: memoryview) -> None:
        try:
            self.record.check_block(self.name, index, content)
        except Damaged as error:
            raise self._error(str(error)) from error
        self.checked[index] = True

    def _fetch(self, start: int, end: int) -> bytes:
        """Bytes of a file that is elsewhere."""
        try:
            content = self.place.span(self.name, start, end)
        except FileNotFoundError as error:
            raise self._error(f"{self.name} is missing") from error
        if len(content) != end - start:
            raise self._error(f"{self.name} ends at byte {start + len(content):,} of {self.record.size:,}")
        return content

    def _error(self, what: str) -> ResultError:
        return ResultError(f"{self.place.url}/{what}; {ADVICE}")


def _stretches(tokens: np.ndarray, longest: int) -> Iterator[tuple[int, int]]:
    """First and last place of each run of neighbours among rising tokens, none longer than `longest`."""
    ends = np.append(np.flatnonzero(np.diff(tokens) != 1), len(tokens) - 1)
    first = 0
    for end in ends.tolist():
        for start in range(first, end + 1, longest):
            yield start, min(start + longest - 1, end)
        first = end + 1


def _announce(descriptor: int, spans: list[tuple[int, int]]) -> None:
    """Have the system begin with what will be read, and with nothing else, so that the disk has work while this thread checks.

    Left to itself it reads megabytes ahead of every stretch: of chunks whose turn comes much later, or never.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        for start, end in spans:
            with suppress(OSError):  # a file system that takes no advice
                os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)


_SPACE = threading.local()  # a thread reads into the same memory again and again: made once, it stays in the cache


def _read_whole(descriptor: int, start: int, end: int) -> memoryview:
    """Bytes start to end of an open file, fewer where it ends before; good until this thread reads again."""
    if len(getattr(_SPACE, "held", b"")) < end - start:
        _SPACE.held = np.empty(end - start, dtype=np.uint8).data
    content, got = _SPACE.held[: end - start], 0
    while got < len(content):
        more = os.preadv(descriptor, [content[got:]], start + got)
        if not more:
            break
        got += more
    return content[:got]


class OpenFiles:
    """The files of a part by number. `open_file` opens one; which blocks were checked is remembered when a file is closed."""

    def __init__(self, open_file: Callable[[int], ShardFile]) -> None:
        self._open = open_file
        self._held: OrderedDict[int, ShardFile] = OrderedDict()
        self._checked: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __getitem__(self, number: int) -> ShardFile:
        with self._lock:
            file = self._held.get(number)
            if file is None:
                file = self._held[number] = self._open(number)
                file.checked |= self._checked.setdefault(number, file.checked)
                self._checked[number] = file.checked
                if len(self._held) > OPEN:
                    self._held.popitem(last=False)
            self._held.move_to_end(number)
            return file
