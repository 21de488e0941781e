"""The worker of a harvest: a model replica that computes shards of a plan and commits them into the store."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from conceptlab.errors import RunError
from conceptlab.model import Batch, Model
from conceptlab.runs.ledger import Ledger
from conceptlab.runs.moments import moment
from conceptlab.runs.place import Place
from conceptlab.store.copies import Copies, Handed, Values
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

    def do(self, shard: int) -> Mapping[str, Any]:
        """Compute and commit one shard; reports its tokens, seconds, and the seconds spent waiting for the disk."""
        start = time.perf_counter()
        tokens = read_tokens(self.place, self.plan, shard)
        with self.place.drafts(f"{shard:06d}") as drafts:
            n_kept = int(tokens.kept.sum())
            files = ShardFiles(drafts, shard, n_kept, self.manifest, self.model.device)
            try:
                with Overlap() as writer:
                    for batch, kept in self.batches(tokens):
                        handed = self.copies.handed(self.captured(batch, kept), writer)
                        writer.give(partial(self._keep, files, handed))
                        self.tick({"shard": shard, "tick": sum(batch.lengths)})
                published = files.publish(self.place)
            except BaseException:
                files.abandon()
                self.copies.reset()
                raise
            self.ledger.commit(shard, published, {"n_tokens": n_kept, "nonfinite": files.nonfinite})
        return {"tokens": len(tokens.token), "seconds": time.perf_counter() - start, "waited": writer.waited}

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

    def _keep(self, files: ShardFiles, handed: Handed) -> None:
        with handed:
            files.put_all(handed.values, handed.finite)
        moment("batch written")
        if self.on_nonfinite == "error" and files.nonfinite:
            part, counts = min(files.nonfinite.items())
            raise RunError(
                f"shard {files.shard}: {part} has {counts['nan']} NaN and {counts['inf']} infinite values; "
                "look at the model, or count and keep them with --on-nonfinite record"
            )


def _stored(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    values = values.detach()
    return (values, None) if values.dtype == dtype else (values.to(dtype), values)
