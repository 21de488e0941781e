"""Shuffled reading for training: a fixed order for a seed and an epoch, whatever the number of workers, in bounded memory.

The store is cut into chunks of neighbouring tokens; chunks are shuffled over the whole store and taken in groups that fit the
buffer, and the tokens of a group are shuffled among themselves. Batches never cross groups (the last one of a group may be short).
A worker takes every n-th group, so batches of all workers together, in the order of their groups, are those of one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from conceptlab.errors import InputError
from conceptlab.store.part import Part
from conceptlab.store.store import Store

CHUNK = 256  # neighbouring tokens that are read together


@dataclass(frozen=True)
class Drawn:
    """One batch: its number in the epoch, values [token, …] by part (`resid_post/3`, `embed`), the tokens' numbers in the store."""

    number: int
    values: dict[str, Tensor]
    index: np.ndarray


class Shuffled(IterableDataset[Drawn]):
    """Batches of a store in random order, for a training loop or a `torch.utils.data.DataLoader(batch_size=None)`.

    `parts`: (site, layer) pairs. `buffer_tokens` are held at once, per worker. `rank` of `world_size` takes part of the batches;
    the workers of a DataLoader share those of their rank. Every token comes once an epoch.

    Raises InputError for sizes that make no sense.
    """

    def __init__(  # noqa: PLR0913 - the knobs of a loader
        self,
        store: Store,
        parts: "list[tuple[str, int | None]]",
        *,
        batch: int,
        buffer_tokens: int = 1 << 18,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch < 1 or buffer_tokens < batch:
            raise InputError(f"batches of {batch} need a buffer of at least as many tokens; {buffer_tokens} were given")
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size} does not exist; ranks count from 0 to {world_size - 1}")
        self.store, self.batch, self.seed, self.epoch = store, batch, seed, epoch
        self.rank, self.world_size = rank, world_size
        self.per_group = max(1, buffer_tokens // max(CHUNK, batch)) * max(CHUNK, batch)
        self.parts = {name if layer is None else f"{name}/{layer}": store.part(name, layer) for name, layer in parts}

    @property
    def n_batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        return sum(-(-len(group) // self.batch) for group in self._groups())

    def __iter__(self) -> Iterator[Drawn]:
        info = get_worker_info()
        workers, mine = (1, 0) if info is None else (info.num_workers, info.id)
        number = 0
        for at, group in enumerate(self._groups()):
            count = -(-len(group) // self.batch)
            if at % (self.world_size * workers) == self.rank * workers + mine:
                yield from self._drawn(at, group, number)
            number += count

    def _groups(self) -> Iterator[np.ndarray]:
        """The tokens [token] of each group, in stored order within a chunk."""
        n_tokens = len(self.store)
        chunks = np.random.default_rng([self.seed, self.epoch]).permutation(-(-n_tokens // CHUNK))
        per_group = self.per_group // CHUNK
        for start in range(0, len(chunks), per_group):
            first = np.sort(chunks[start : start + per_group]) * CHUNK
            tokens = (first[:, None] + np.arange(CHUNK)).ravel()
            yield tokens[tokens < n_tokens]

    def _drawn(self, at: int, group: np.ndarray, number: int) -> Iterator[Drawn]:
        held = {name: _gathered(part, group) for name, part in self.parts.items()}
        order = np.random.default_rng([self.seed, self.epoch, at + 1]).permutation(len(group))
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            picked = torch.from_numpy(chosen)
            yield Drawn(number + start // self.batch, {n: v[picked] for n, v in held.items()}, group[chosen])


def _gathered(part: Part, tokens: np.ndarray) -> Tensor:
    """Tokens in rising order, read as the runs that they make."""
    found = torch.empty((len(tokens), *part.shape[1:]), dtype=part.dtype)
    breaks = (np.diff(tokens) != 1).nonzero()[0] + 1
    for start, end in zip([0, *breaks], [*breaks, len(tokens)], strict=True):
        if end > start:
            found[start:end] = part.read(int(tokens[start]), int(tokens[end - 1]) + 1)
    return found
