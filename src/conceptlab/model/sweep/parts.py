"""A sweep in independent parts: the same items make the same parts, finished ones are found again, shards need not meet."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.model.batch import Batch
from conceptlab.model.metric import Metric
from conceptlab.results import Edit
from conceptlab.runs import Checkpoint

if TYPE_CHECKING:
    from conceptlab.model.model import Model

FORWARDS_A_PART = 500.0  # about: a killed run loses less than this
MOST_PARTS = 256


@dataclass(frozen=True, eq=False)
class Parts:
    """`shares` (number, items) of this call; `mine` are all its items. `stores` are where finished parts may lie, the first one
    is written to."""

    shares: list[tuple[int, np.ndarray]]
    stores: list[Checkpoint]

    @property
    def mine(self) -> np.ndarray:
        """Items of this call."""
        return np.sort(np.concatenate([share for _, share in self.shares]))

    def load(self, number: int) -> np.ndarray | None:
        """A finished part [item, row], or None."""
        for store in self.stores:
            folder = store.finished(f"part-{number}")
            if folder is not None:
                return np.load(folder / "values.npy", allow_pickle=False)
        return None

    def keep(self, number: int, values: np.ndarray) -> None:
        """Commit a part."""
        for store in self.stores[:1]:
            with store.part(f"part-{number}") as folder:
                np.save(folder / "values.npy", values, allow_pickle=False)


@contextmanager
def parts_of(  # noqa: PLR0913 - what determines the parts
    model: "Model",
    batch: Batch,
    items: list[tuple[Edit, ...]],
    metric: Metric,
    out: Path | str | None,
    shard: tuple[int, int] | None,
    forwards: float,
) -> Iterator[Parts]:
    """The parts of a sweep that this call does. Raises InputError for an impossible shard or a folder that holds another sweep."""
    index, n_shards = (0, 1) if shard is None else shard
    if not 0 <= index < n_shards:
        raise InputError(f"shard {index} of {n_shards} does not exist; count from 0 to {n_shards - 1}")
    if out is None:
        share = np.arange(index, len(items), n_shards)
        if not len(share):
            raise InputError(f"{len(items)} edits cannot be cut into {n_shards} shards; use at most {len(items)}")
        yield Parts([(0, share)], [])
        return
    folder, n_parts = Path(out), n_parts_for(len(items), forwards)
    if n_shards > n_parts and shard is not None:
        n_parts = min(len(items), n_shards)
    n_parts = _recorded_parts(folder, n_parts)
    key = {**key_of(model, batch, items, metric), "parts": n_parts}
    shares = [(part, np.arange(part, len(items), n_parts)) for part in range(index, n_parts, n_shards)]
    if not shares:
        raise InputError(
            f"this sweep has {n_parts} parts, which cannot be cut into {n_shards} shards; use at most {n_parts}"
        )
    others = sorted(folder.glob("shard-*")) if folder.is_dir() else []
    mine = folder if shard is None else folder / f"shard-{index}-of-{n_shards}"
    with Checkpoint(mine, key) as store:
        yield Parts(shares, [store, *(Checkpoint(other, key) for other in others if other != mine)])


def n_parts_for(n_items: int, forwards: float) -> int:
    """How many parts a sweep of so many forwards is cut into."""
    return min(n_items, MOST_PARTS, max(1, round(forwards / FORWARDS_A_PART)))


def _recorded_parts(folder: Path, wanted: int) -> int:
    """The number of parts that an earlier call on this folder chose (a shard may have wanted more of them)."""
    for record in (folder / "run.json", *sorted(folder.glob("shard-*/run.json"))):
        if record.is_file():
            try:
                return int(json.loads(record.read_text(encoding="utf-8")).get("parts", wanted))
            except (ValueError, TypeError, AttributeError):
                return wanted
    return wanted


def key_of(model: "Model", batch: Batch, items: list[tuple[Edit, ...]], metric: Metric) -> dict[str, Any]:
    """What determines the values, as plain JSON."""
    digest = hashlib.sha256()
    for item in items:
        for edit in item:
            digest.update(f"{edit}|{edit.strength}|{edit.keys}".encode())
            for tensor in (edit.value, edit.center):
                if tensor is not None:
                    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        digest.update(b";")
    tokens = "" if metric.tokens is None else str(metric.tokens.tolist())
    rows = hashlib.sha256(str(batch.ids).encode()).hexdigest()
    reads = f"{metric.name} at {metric.site or 'logits'} {metric.position} {hashlib.sha256(tokens.encode()).hexdigest()[:16]}"
    return {"sweep": model.name, "revision": model.revision, "rows": rows, "edits": digest.hexdigest(), "metric": reads}
