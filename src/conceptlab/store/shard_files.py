"""The files of one shard: a safetensors file for each layer of each site, written as values come, hashed on the way; and
statistics of the values, beside them or in their place.

acts/<site>/<layer>/<shard>-<hash12>.safetensors   one tensor "values" [token, …] of the shard's kept tokens in stored order
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import RunError
from conceptlab.runs.blocks import BlockWriter, FileRecord
from conceptlab.runs.place import Place
from conceptlab.store.manifest import Manifest
from conceptlab.store.shard_statistics import ShardStatistics

NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
ALIGN = 64  # bytes: where values begin in a file
WRITERS = max(1, min(8, (os.cpu_count() or 1) // 4))  # threads that hash (twice: file and block) and write
FREE_WRITERS = max(1, min(16, (os.cpu_count() or 1) - 2))  # the same where the model leaves the cores alone
PUBLISHERS = 8  # files that are flushed to the disk, or sent, at the same time: that is waiting, not work
EARLY = 4 << 20  # bytes of a file that the disk is given before the shard is whole, beside a GPU


def writers_beside(device: torch.device) -> int:
    """Writing threads beside a model on `device`."""
    return WRITERS if device.type == "cpu" else FREE_WRITERS


class ShardFiles:
    """Open drafts of every part (`resid_post/3`) of one shard of `n_kept` tokens, and its statistics, as the manifest asks."""

    def __init__(
        self, drafts: Path, shard: int, n_kept: int, manifest: Manifest, device: torch.device | None = None
    ) -> None:
        """`device` is the model's: beside a GPU, the cores hash and write, and the disk is kept busy while values come."""
        self.shard, self.dtype = shard, manifest.dtype
        free = device is not None and device.type != "cpu"
        self.n_threads = FREE_WRITERS if free else WRITERS
        self.pool = ThreadPoolExecutor(self.n_threads)
        self.flushing = ThreadPoolExecutor(PUBLISHERS) if free else None
        self.flushed: dict[str, Future[None]] = {}
        self.statistics = ShardStatistics(shard, manifest) if manifest.statistics else None
        self.writers: dict[str, BlockWriter] = {}
        self.records: dict[str, FileRecord] = {}
        self.nonfinite: dict[str, dict[str, int]] = {}
        self.stopped = False
        for site in manifest.sites if manifest.values else ():
            for part in site.parts:
                writer = BlockWriter(drafts / part.replace("/", "-"), manifest.block_hash)
                writer.write(header((n_kept, *site.shape), self.dtype))
                self.writers[part] = writer

    def put_all(
        self, values: Mapping[str, tuple[Tensor, Tensor | None]], finite: Mapping[str, bool] | None = None
    ) -> None:
        """Append one batch to every part, several steps at a time: parts are files of their own, and a file's writing and its two
        hashes do not wait for each other. `finite` names parts that are known to hold no NaN and nothing infinite. Raises as `put`
        does."""
        known = finite or {}
        steps = [step for part in values for step in self._steps(part, *values[part], known.get(part, False))]
        if self.n_threads == 1:
            for step in steps:
                step()
        else:
            futures = [self.pool.submit(step) for step in steps]
            wait(futures)  # all, whatever happens: they read the values
            for future in futures:
                future.result()
        self._flush_early()

    def put(self, part: str, values: Tensor, source: Tensor | None = None) -> None:
        """Append the values [token, …] of one batch, in the store's dtype; `source` is what they were before a cast.

        Raises RunError where the cast made a finite value infinite.
        """
        for step in self._steps(part, values, source, False):
            step()

    def _steps(self, part: str, values: Tensor, source: Tensor | None, finite: bool) -> Iterator[Callable[[], None]]:
        """What `put` does, in parts that may run at the same time."""
        if not finite:
            yield partial(self._count, part, values, source)
        if part in self.writers:
            yield from self.writers[part].steps(as_bytes(values))
        if self.statistics is not None:
            yield partial(self.statistics.put, part, values)

    def _count(self, part: str, values: Tensor, source: Tensor | None) -> None:
        bad = count_nonfinite(values)
        if bad is None:
            return
        if source is not None and bool((torch.isfinite(source) & ~torch.isfinite(values)).any()):
            raise RunError(
                f"{part}: a value is too large for {self.dtype}; use --store-dtype float32 or bfloat16 and another folder"
            )
        known = self.nonfinite.setdefault(part, {"nan": 0, "inf": 0})
        for kind, count in bad.items():
            known[kind] += count

    def _flush_early(self) -> None:
        """Give the disk what it does not have, one call a file at a time."""
        if self.flushing is None:
            return
        for part, writer in self.writers.items():
            if writer.waiting >= EARLY and (part not in self.flushed or self.flushed[part].done()):
                self.flushed[part] = self.flushing.submit(writer.begin_flush)

    def close(self) -> None:
        """Close every file: all values are there, and the statistics become what is kept of them, a quarter of what they were."""
        self.pool.shutdown()
        if self.flushing is not None:
            self.flushing.shutdown(wait=False, cancel_futures=True)
        self.records = {part: writer.close() for part, writer in self.writers.items()}
        if self.statistics is not None:
            self.statistics.close()

    def publish(self, place: Place) -> dict[str, FileRecord]:
        """Publish the closed files, several at a time; name -> record. Raises RunError where `stop` was called meanwhile."""
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            found = dict(pool.map(lambda part: self._published(place, part), self.records))
        return found | (self.statistics.publish(place) if self.statistics is not None else {})

    def _published(self, place: Place, part: str) -> tuple[str, FileRecord]:
        if self.stopped:
            raise RunError(
                f"shard {self.shard} was stopped before it was published; the same command computes it again"
            )
        record = self.records[part]
        name = f"acts/{part}/{self.shard:06d}-{record.sha256[:12]}.safetensors"
        place.publish(self.writers[part].draft, name)
        return name, record

    def stop(self) -> None:
        """Publish no further file; may be called from another thread."""
        self.stopped = True

    def abandon(self) -> None:
        """Close the drafts."""
        self.pool.shutdown(cancel_futures=True)
        if self.flushing is not None:
            self.flushing.shutdown(cancel_futures=True)
        for writer in self.writers.values():
            writer.abandon()


def header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The start of a safetensors file that holds one tensor "values"."""
    width = torch.finfo(getattr(torch, dtype)).bits // 8
    entry = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [0, int(np.prod(shape)) * width]}
    text = json.dumps({"values": entry}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    return len(text).to_bytes(8, "little") + text


def read_header(content: bytes) -> tuple[int, tuple[int, ...], str]:
    """Where the values begin, their shape and dtype. Raises ValueError for anything but what `header` makes."""
    length = int.from_bytes(content[:8], "little")
    try:
        entry: Mapping[str, object] = json.loads(content[8 : 8 + length])["values"]
        dtype = {short: name for name, short in NAMES.items()}[str(entry["dtype"])]
        shape = tuple(int(n) for n in entry["shape"])  # type: ignore[attr-defined]
        whole = header(shape, dtype) == content[: 8 + length]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError("the header cannot be read") from error
    if not whole:
        raise ValueError("the header is not as it was written")
    return 8 + length, shape, dtype


def as_bytes(values: Tensor) -> memoryview:
    """The bytes of a CPU tensor, without a copy where it is contiguous."""
    flat = values.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def count_nonfinite(values: Tensor) -> dict[str, int] | None:
    """How many values are NaN and infinite, None where all are finite; a finite sum of magnitudes says so in one reading."""
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype == torch.float32 and np.isfinite(values.numpy().sum()):
            return None
    if bool(torch.isfinite(values).all()):
        return None
    return {"nan": int(values.isnan().sum()), "inf": int(values.isinf().sum())}
