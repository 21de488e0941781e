"""What a harvest will cost, from a short calibration on its own first batches: time, disk, peak memory; and refusals beforehand."""

import math
import resource
import sys
import time
from dataclasses import dataclass
from functools import partial

from conceptlab.errors import InputError, RunError
from conceptlab.runs.estimate import duration, size
from conceptlab.store.copies import Handed
from conceptlab.store.harvesting import Harvest
from conceptlab.store.overlap import DEEP, Overlap
from conceptlab.store.plan import read_tokens
from conceptlab.store.shard_files import ShardFiles
from conceptlab.store.shard_statistics import BYTES_A_UNIT

TRIED = 4  # batches of the calibration, the first of which warms up


@dataclass(frozen=True)
class HarvestEstimate:
    """Of what is left to do: `seconds` for one worker alone, `bytes_disk`, `bytes_peak` of one worker's memory, `tokens_left`."""

    seconds: float
    bytes_disk: int
    bytes_peak: int
    tokens_left: int

    def said(self, workers: int = 1) -> str:
        """For a person, with so many workers, each as quick as one alone."""
        rate = self.tokens_left / self.seconds if self.seconds else 0.0
        return (
            f"about {duration(self.seconds / workers)} for {self.tokens_left:,} tokens ({rate:,.0f} tokens/s a worker), "
            f"{size(self.bytes_disk)} of disk, {size(self.bytes_peak)} of memory a worker"
        )


def estimate(harvest: Harvest) -> HarvestEstimate | None:
    """Run a few batches of the first unfinished shard, written as in the harvest and thrown away; None where all is done."""
    done = set(harvest.worker.ledger.finished())
    left = [shard for shard in range(harvest.plan.n_shards) if shard not in done]
    if not left:
        return None
    tokens_left = sum(harvest.plan.index["n_tokens"][shard] for shard in left)
    kept_left = sum(harvest.plan.index["n_kept"][shard] for shard in left)
    per_token, batch_bytes = _calibrate(harvest, left[0])
    disk = round(kept_left / max(1, harvest.plan.n_kept) * harvest.n_bytes)
    kept = 0  # of the statistics of a shard
    if harvest.manifest.statistics:
        kept = BYTES_A_UNIT * sum(math.prod(site.shape) * len(site.parts) for site in harvest.manifest.sites)
    peak = _peak() + DEEP * batch_bytes // 2 + kept  # those of one shard are published while the next is computed
    return HarvestEstimate(tokens_left * per_token, disk + len(left) * kept, peak, tokens_left)


def _calibrate(harvest: Harvest, shard: int) -> tuple[float, int]:
    """Seconds a token, and the bytes of the largest batch tried."""
    worker = harvest.worker
    tokens = read_tokens(harvest.place, harvest.plan, shard)
    planned = worker.batches(tokens)
    chosen = [planned[i * (len(planned) - 1) // max(1, TRIED - 1)] for i in range(min(TRIED, len(planned)))]
    largest, counted, start = 0, 0, time.perf_counter()
    with harvest.place.drafts("calibration") as drafts:
        files = ShardFiles(drafts, shard, len(tokens.token), harvest.manifest, worker.model.device)
        try:
            with Overlap() as writer:
                for number, (batch, kept) in enumerate(chosen):
                    values = worker.captured(batch, kept)
                    largest = max(largest, sum(v.nbytes for v, _ in values.values()))
                    writer.give(partial(_written, files, worker.copies.handed(values, writer)))
                    if number == 0 and len(chosen) > 1:
                        counted, start = 0, time.perf_counter()
                        continue
                    counted += sum(batch.lengths)
        finally:
            files.abandon()
    return (time.perf_counter() - start) / max(1, counted), largest


def _written(files: ShardFiles, handed: Handed) -> None:
    with handed:
        files.put_all(handed.values, handed.finite)


def _peak() -> int:
    """The largest memory this process has held, in bytes."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


def check_room(harvest: Harvest, expected: HarvestEstimate, *, memory: int | None, workers: int = 1) -> None:
    """Raise RunError where the disk cannot hold what is left, InputError where the workers need more than `memory` bytes."""
    free = harvest.place.free()
    if free is not None and free < expected.bytes_disk:
        raise RunError(
            f"{harvest.place.url}: {size(expected.bytes_disk)} are needed and {size(free)} are free; free some space, or store "
            "fewer sites, layers or positions"
        )
    needed = expected.bytes_peak * (workers + (workers > 1))  # this process keeps its model while others work
    if memory is not None and needed > memory:
        raise InputError(
            f"{workers} worker{'s need' if workers > 1 else ' needs'} about {size(needed)} of memory, "
            f"--memory allows {size(memory)}; use fewer --workers or a smaller --batch-tokens (another plan, so another folder)"
        )
