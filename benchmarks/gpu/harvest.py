"""A harvest beside the slowest of model, link and disk, each measured here and now on the same rows, sizes and threads.

model  the bare module over the rows of a shard, in the plan's batches, blocks above the last wanted one not run
link   copies of a batch's values from the device into pinned memory
disk   plain writing and fsync of files as large as a shard's, as many threads as the harvest flushes with
hash   by as many threads as the harvest hashes with; every byte is hashed twice (the file by sha256, its block by BLAKE3)
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.speed.harvests import scratch, texts
from benchmarks.speed.models import word_tokenizer
from conceptlab.model import Model, load_model
from conceptlab.runs.job import work
from conceptlab.runs.threads import threads
from conceptlab.store import Harvest, Store, Wish, open_harvest
from conceptlab.store.shard_files import PUBLISHERS, writers_beside

from .machine import disk_rate, hash_rate, link_rate, once
from .record import Record
from .shapes import SHAPES, Shape

MOST_BYTES = 23 << 30  # of the disk that a case may fill
MOST_SHARDS = 4
BARE_BATCHES = 16  # in a run of the bare module
TRIED = 3 << 30  # bytes by which the disk is measured at a time


@dataclass(frozen=True)
class Case:
    """What is harvested: `site` of a shape, rows of `context` tokens, in batches and shards of so many tokens, for `seconds`."""

    shape: Shape
    site: str
    context: int
    batch_tokens: int
    shard_tokens: int
    seconds: float

    @property
    def section(self) -> str:
        """Where its rows stand."""
        return f"Harvest, {self.shape.name}, {self.site}, bfloat16"


def cases(*, tiny: bool) -> list[Case]:
    """The two harvests."""
    wide, deep = (Shape(name, tiny) for name in SHAPES)
    if tiny:
        return [Case(wide, "resid_post", 16, 64, 256, 0.1), Case(deep, "L0.resid_post", 16, 64, 256, 0.1)]
    return [
        Case(wide, "resid_post", 512, 4096, 49152, 25.0),
        Case(deep, "L16.resid_post", 1024, 8192, 262144, 25.0),
    ]


def run_harvests(record: Record, device: torch.device, *, tiny: bool) -> None:
    """Every case; its store is gone before the next one begins."""
    for case in cases(tiny=tiny):
        record.guarded(case.section, "harvest", lambda c=case: _case(record, device, c))


def _case(record: Record, device: torch.device, case: Case) -> None:
    module = case.shape.module(device)
    model = load_model(module, tokenizer=word_tokenizer(module.config.vocab_size))  # type: ignore[union-attr, arg-type]
    model.revision = "random weights, seed 0"  # else the weights would be hashed for the manifest
    with scratch() as folder:
        _measure(record, model, case, folder)


def _measure(record: Record, model: Model, case: Case, folder: Path) -> None:
    last = model.n_layers - 1 if case.site == "resid_post" else int(case.site[1:].split(".")[0])
    n_parts = model.n_layers if case.site == "resid_post" else 1
    per_token = n_parts * model.d_model * 2
    disk = _disk(case, folder, n_parts, per_token)
    case = _sized(case, disk)
    n_shards = _affordable(case, disk, per_token)
    start = time.perf_counter()
    wish = Wish(
        (case.site,), context=case.context, batch_tokens=case.batch_tokens, shard_tokens=case.shard_tokens,
        dtype="bfloat16", text=False,
    )  # fmt: skip
    n_tokens = n_shards * case.shard_tokens - case.context // 2
    harvest = open_harvest(model, texts(model, n_tokens), folder / "store", wish)
    planning = time.perf_counter() - start
    found, waited, n_done = _harvested(harvest, model.device)
    bare = _bare_rate(model, harvest, case, last)
    link = link_rate(model.device, case.batch_tokens * per_token) / per_token
    disk = max(disk, _disk(case, folder, n_parts, per_token))
    hashing = hash_rate(writers_beside(model.device)) / per_token
    slowest = min(("model", bare), ("link", link), ("disk", disk), key=lambda pair: pair[1])
    record.add(
        case.section, f"{n_done} shards of {case.shard_tokens:,} tokens, {per_token:,} bytes a token", tokens_s=found,
        GB_s=found * per_token / 1e9, model_tokens_s=bare, link_tokens_s=link, disk_tokens_s=disk, hash_tokens_s=hashing,
        link_GB_s=link * per_token / 1e9, disk_GB_s=disk * per_token / 1e9, slowest=slowest[0],
        share_of_slowest=found / slowest[1], waited_for_disk=waited, planning_s=planning,
        batches=f"{case.batch_tokens // case.context} x {case.context}",
    )  # fmt: skip


def _disk(case: Case, folder: Path, n_parts: int, per_token: int) -> float:
    """Tokens a second."""
    shard = case.shard_tokens * per_token
    n_files = n_parts if n_parts > 1 else max(1, min(2, TRIED // shard))
    file_bytes = min(shard // n_parts, max(1, TRIED // n_files))
    return disk_rate(folder / "plain", n_files=n_files, file_bytes=file_bytes, threads=PUBLISHERS) / per_token


def _sized(case: Case, disk: float) -> Case:
    """With shards of about five seconds where the disk is slow: between shards it is idle for a moment."""
    batches = max(4, round(5.0 * disk / case.batch_tokens))
    return replace(case, shard_tokens=min(case.shard_tokens, batches * case.batch_tokens))


def _affordable(case: Case, disk: float, per_token: int) -> int:
    """Shards that the disk takes in the time of the case, and at most as many as may lie on it; the first one warms up."""
    most = min(MOST_SHARDS, MOST_BYTES // (case.shard_tokens * per_token))
    return int(max(2, min(most, case.seconds * disk // case.shard_tokens + 1)))


def _harvested(harvest: Harvest, device: torch.device) -> tuple[float, float, int]:
    """Tokens a second from the end of the first batch, which warms up, to the commit of the last shard, so with the way of every
    shard to the disk; the share of that time that the model waited; shards."""
    worker, first = harvest.worker, list[tuple[float, int]]()
    worker.tick = lambda said: first or first.append((time.perf_counter(), said["tick"]))
    with threads(harvest.manifest.threads):
        reports = list(work(worker))
        seconds = time.perf_counter() - first[0][0]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    tokens = sum(report["tokens"] for report in reports) - first[0][1]
    return tokens / seconds, sum(report["waited"] for report in reports) / seconds, len(reports)


def _bare_rate(model: Model, harvest: Harvest, case: Case, last: int) -> float:
    """Tokens a second of the bare module over the rows of a shard, stopped after block `last`."""
    rows = [ids for ids in Store.open(harvest.place.url).tokens(0).ids if len(ids) == case.context]
    per, device = case.batch_tokens // case.context, model.device
    whole = [rows[at : at + per] for at in range(0, len(rows) - per + 1, per)]
    batches = [torch.from_numpy(np.stack(few)).long().to(device) for few in whole[:BARE_BATCHES]]

    def run() -> None:
        for ids in batches:
            _stopped(model, ids)

    with torch.no_grad(), _stopping(model, last):
        run()
        times = [once(run, device) for _ in range(2)]
    return sum(ids.numel() for ids in batches) / min(times)


class _Stop(Exception):
    pass


@contextmanager
def _stopping(model: Model, last: int) -> Iterator[None]:
    """End every forward after block `last`."""

    def stop(*_: object) -> None:
        raise _Stop

    handle = model.stack.blocks[last].module.register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


def _stopped(model: Model, ids: torch.Tensor) -> None:
    try:
        model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    except _Stop:
        return
