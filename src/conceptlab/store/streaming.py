"""Shuffled reading for training: a fixed order for a seed and an epoch, whatever the number of workers, in bounded memory.

The store is cut into chunks of neighbouring tokens; chunks are shuffled over the whole store and taken in groups that fit the
buffer, and the tokens of a group are dealt into batches (the last one of a group may be short), in stored order inside a batch. The
next group is read ahead. A worker takes every n-th group: the batches of all workers together, in the order of their groups, are
those of one.

Minimal work for a byte: one copy out of the system's cache, one hash the first time, one copy to its place in a batch. Reading
threads do all three while a block is in their processor's cache, so the training loop is only given views.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from conceptlab.errors import InputError
from conceptlab.numerics.large_pages import Spaces
from conceptlab.store.store import Store

CHUNK = 2048  # neighbouring tokens that are read together: a few blocks, so that little is read twice for being checked whole
GROUPS = 3  # that are in memory at once: one read, one used, one that a training loop has just let go of
AHEAD = 8  # threads that read and check the next group; more than cores, since most wait for the disk


@dataclass(frozen=True)
class Drawn:
    """One batch: its number in the epoch, values [token, …] by part (`resid_post/3`, `embed`), the tokens' numbers in the store."""

    number: int
    values: dict[str, Tensor]
    index: np.ndarray


class Shuffled(IterableDataset[Drawn]):
    """Batches of a store in random order, for a training loop or a `torch.utils.data.DataLoader(batch_size=None)`.

    `parts`: (site, layer) pairs. A worker uses two groups of `buffer_tokens` at once, each of chunks of `chunk` neighbours: smaller
    ones mix better, larger ones read faster. `rank` of `world_size` takes part of the batches; the workers of a DataLoader share
    those of their rank. Every token comes once an epoch.

    Raises InputError for sizes that make no sense.
    """

    def __init__(  # noqa: PLR0913 - the knobs of a loader
        self,
        store: Store,
        parts: "list[tuple[str, int | None]]",
        *,
        batch: int,
        buffer_tokens: int = 1 << 18,
        chunk: int = CHUNK,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch < 1 or buffer_tokens < batch:
            raise InputError(f"batches of {batch} need a buffer of at least as many tokens; {buffer_tokens} were given")
        if chunk < 1:
            raise InputError(f"a chunk holds at least one token; {chunk} were given")
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size} does not exist; ranks count from 0 to {world_size - 1}")
        self.store, self.batch, self.seed, self.epoch = store, batch, seed, epoch
        self.rank, self.world_size = rank, world_size
        self.chunk = min(chunk, buffer_tokens)
        self.per_group = buffer_tokens // max(self.chunk, batch) * max(self.chunk, batch)
        self.parts = {name if layer is None else f"{name}/{layer}": store.part(name, layer) for name, layer in parts}

    @property
    def n_batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        return sum(-(-len(group) // self.batch) for group in self._groups())

    def __iter__(self) -> Iterator[Drawn]:
        info = get_worker_info()
        workers, mine = (1, 0) if info is None else (info.num_workers, info.id)
        own = self._own(self.rank * workers + mine, self.world_size * workers)
        spaces = Spaces(GROUPS * len(self.parts))
        with ThreadPoolExecutor(AHEAD) as threads:
            ahead = self._begin(threads, spaces, next(own, None))
            while ahead is not None:
                group = ahead
                ahead = self._begin(threads, spaces, next(own, None))  # the next group is read while this one is used
                yield from group.batches(self.batch)

    def _own(self, worker: int, workers: int) -> Iterator[tuple[int, np.ndarray, int]]:
        """The groups of one worker: their number in the epoch, their tokens, the number of their first batch."""
        number = 0
        for at, group in enumerate(self._groups()):
            if at % workers == worker:
                yield at, group, number
            number += -(-len(group) // self.batch)

    def _begin(
        self, threads: ThreadPoolExecutor, spaces: Spaces, own: tuple[int, np.ndarray, int] | None
    ) -> "_Group | None":
        """Have the values of a group fetched, checked and put where its batches want them, by other threads."""
        if own is None:
            return None
        at, tokens, number = own
        order = self._order(at, len(tokens))
        slots = np.empty_like(order)
        slots[order] = np.arange(len(order))
        values = {
            name: spaces.take(len(tokens), *part.shape[1:], dtype=part.dtype) for name, part in self.parts.items()
        }
        reading = [threads.submit(part.scatter, tokens, values[name], slots) for name, part in self.parts.items()]
        return _Group(number, tokens[order], values, reading)

    def _order(self, at: int, size: int) -> np.ndarray:
        """Which token of a group comes at each place of its batches, one after the other."""
        order = np.random.default_rng([self.seed, self.epoch, at + 1]).permutation(size)
        return np.concatenate([np.sort(order[start : start + self.batch]) for start in range(0, size, self.batch)])

    def _groups(self) -> Iterator[np.ndarray]:
        """The tokens [token] of each group, in stored order within a chunk."""
        n_tokens = len(self.store)
        chunks = np.random.default_rng([self.seed, self.epoch]).permutation(-(-n_tokens // self.chunk))
        per_group = self.per_group // self.chunk
        for start in range(0, len(chunks), per_group):
            first = np.sort(chunks[start : start + per_group]) * self.chunk
            tokens = (first[:, None] + np.arange(self.chunk)).ravel()
            yield tokens[tokens < n_tokens]


@dataclass(frozen=True, eq=False)
class _Group:
    """Tokens that lie in memory together: `index` [token] in the order of the batches, `values` by part, who still reads them."""

    number: int
    index: np.ndarray
    values: dict[str, Tensor]
    reading: list[Future[None]]

    def batches(self, size: int) -> Iterator[Drawn]:
        for read in self.reading:
            read.result()
        for start in range(0, len(self.index), size):
            chosen = slice(start, start + size)
            yield Drawn(self.number + start // size, {n: v[chosen] for n, v in self.values.items()}, self.index[chosen])
