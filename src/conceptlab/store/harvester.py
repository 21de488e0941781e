"""The worker of a harvest: a model replica that computes shards of a plan and commits them into the store."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conceptlab.model import Batch, Model
from conceptlab.runs.ledger import Ledger
from conceptlab.runs.place import Place
from conceptlab.store.copies import Copies, Values
from conceptlab.store.in_flight import InFlight
from conceptlab.store.manifest import Manifest
from conceptlab.store.overlap import Overlap
from conceptlab.store.plan import Plan, ShardTokens, read_tokens
from conceptlab.store.rows import batches
from conceptlab.store.shard_files import ShardFiles

NO_CHUNKS = 1 << 62  # a batch of the plan is one forward, never cut further


class Harvester:
    """`do(shard)` runs the shard's batches through the model and writes what the manifest asks for.

    `on_nonfinite`: "record" counts NaN and infinite values in the commit, "error" stops at the first.
    """

    def __init__(self, place: Place, manifest: Manifest, plan: Plan, model: Model, on_nonfinite: str = "error") -> None:
        self.place, self.manifest, self.plan, self.model = place, manifest, plan, model
        self.on_nonfinite = on_nonfinite
        self.ledger = Ledger(place, plan.id, plan.n_shards)
        self.tick: Callable[[Mapping[str, Any]], None] = lambda said: None  # noqa: ARG005 - whoever starts the worker may listen
        self.wanted = {site.name: site.layers for site in manifest.sites}
        self.copies = Copies()
        self.writer: Overlap | None = None
        self.flight: InFlight | None = None  # sealed, not known to be committed

    def do(self, shard: int) -> Mapping[str, Any]:
        """Compute and commit one shard, and wait for it; reports as `begin` says."""
        try:
            return self.begin(shard)()
        finally:
            self.settle()

    def begin(self, shard: int) -> Callable[[], Mapping[str, Any]]:
        """Compute a shard; it is published while the next one is computed, and before that one is. Calling the result waits for the
        commit and reports the shard's tokens, the seconds that this thread gave to it, and those of them spent waiting for the
        disk. Raises the error of the shard before, too.
        """
        start, tokens = time.perf_counter(), read_tokens(self.place, self.plan, shard)
        flight = self._flight(shard, int(tokens.kept.sum()))
        if self.writer is None:
            self.writer = Overlap().start()
        writer, before = self.writer, self.writer.waited
        try:
            writer.give(flight.open)
            for batch, kept in self.batches(tokens):
                handed = self.copies.handed(self.captured(batch, kept), writer)
                writer.give(partial(flight.keep, handed))
                self.tick({"shard": shard, "tick": sum(batch.lengths)})
                if self.flight is not None:
                    self.flight.check()
            waited = self._land()
            self.flight = flight
            writer.give(flight.seal)
        except BaseException:
            self._give_up(flight)
            raise
        found = {"tokens": len(tokens.token), "seconds": time.perf_counter() - start}
        return partial(self._landed, flight, {**found, "waited": writer.waited - before + waited})

    def settle(self) -> None:
        """Commit the shard that is sealed, take back one that is not, and end the writing thread. Ctrl-C meanwhile takes back the
        sealed one, too."""
        interrupted = False
        while self.writer is not None:
            try:
                self.writer.end()
                if self.flight is not None:
                    self.flight.end()
                self.writer = self.flight = None
            except KeyboardInterrupt:
                interrupted = True
                if self.flight is not None:
                    self.flight.hurry()
        if interrupted:
            raise KeyboardInterrupt

    def _flight(self, shard: int, n_kept: int) -> InFlight:
        def make(drafts: Path) -> ShardFiles:
            return ShardFiles(drafts, shard, n_kept, self.manifest, self.model.device)

        return InFlight(self.place, self.ledger, shard, n_kept, make, record_nonfinite=self.on_nonfinite == "record")

    def _land(self) -> float:
        """Wait for the shard before; the seconds."""
        start = time.perf_counter()
        if self.flight is not None and self.writer is not None:
            self.flight.land(self.writer)
        return time.perf_counter() - start

    def _landed(self, flight: InFlight, report: Mapping[str, Any]) -> Mapping[str, Any]:
        waited = self._land() if flight is self.flight else 0.0
        flight.check()
        return {**report, "seconds": report["seconds"] + waited, "waited": report["waited"] + waited}

    def _give_up(self, flight: InFlight) -> None:
        """Leave a shard that goes wrong; the one before it may still be committed."""
        flight.cancelled = True
        try:
            self.settle()
        finally:
            flight.end()
            self.copies.reset()

    def batches(self, tokens: ShardTokens) -> "list[tuple[Batch, list[list[int]]]]":
        """Every forward of a shard: its rows, and the kept positions of each."""
        ids, kept, found = tokens.ids, tokens.kept, []
        ends = tokens.lengths.cumsum()
        starts = ends - tokens.lengths
        for rows in batches(tokens.lengths.tolist(), self.manifest.batch_tokens):
            batch = Batch(tuple(tuple(row.tolist()) for row in ids[rows]))
            positions = [kept[a:b].nonzero()[0].tolist() for a, b in zip(starts[rows], ends[rows], strict=True)]
            found.append((batch, positions))
        return found

    def captured(self, batch: Batch, kept: list[list[int]]) -> Values:
        """One forward: part -> its values [token, …] in the store's dtype, and what they were where that is a cast; where the model
        made them."""
        every = all(len(positions) == len(row) for positions, row in zip(kept, batch.ids, strict=True))
        acts = self.model.capture(batch, self.wanted, positions="all" if every else kept, max_tokens=NO_CHUNKS)
        found: Values = {}
        for site in self.manifest.sites:
            for part, values in zip(site.parts, acts.by_layer(site.name), strict=True):
                found[part] = _stored(values, getattr(torch, self.manifest.dtype))
        return found


def _stored(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    values = values.detach()
    return (values, None) if values.dtype == dtype else (values.to(dtype), values)
