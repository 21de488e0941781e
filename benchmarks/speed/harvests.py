"""A harvest beside the bare forward over the same packed tokens; its disk, its memory, reading it back, and more workers.

Minimal work: the forward itself (a harvest of the stream needs no unembedding), one copy of every value to the disk (GPT-2-small
size, 13 streams: 40 kB a token), and a sha256 and a BLAKE3 over it on the writer's thread. Times are by the clock on the wall, as
the writer's work does not show in the main thread's; so they need a quiet machine.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch

from conceptlab.data.corpus import TextList
from conceptlab.model import Model, load_model
from conceptlab.runs.launch import in_process, processes
from conceptlab.runs.reports import Reports
from conceptlab.store import Harvest, Store, Wish, open_harvest
from conceptlab.store.harvesting import job_of
from conceptlab.store.streaming import Shuffled

from . import saelens
from .models import make_module, word_tokenizer
from .pairs import Timing, interval
from .table import Row, timed

CONTEXT, BATCH, SHARD = 256, 2048, 8192
SHARDS = 20  # of the row of workers: enough for the wait for the last one to count little, as in a long harvest
GROUP = "Harvest (gpt2 size, stream of 12 layers and embedding, to local disk; the bare forward of the same tokens = 1)"


def harvest_rows(*, tiny: bool = False, pairs: int = 3) -> list[Row]:
    """Every bar of the store that a clock or a scale can show."""
    with scratch() as folder:
        model = subject(tiny)
        shard = 512 if tiny else SHARD
        rows = [cost_row(model, folder, 2 if tiny else pairs, shard), disk_row(folder)]
        rows += reading_rows(folder, times=1 if tiny else 3)
        if not tiny:  # these start processes, which tests/ do for their own reasons
            rows += [one_layer_row(model, folder), *peer_row(), *memory_rows(folder), *worker_rows(folder)]
    return rows


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder on the disk that is measured, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="harvest-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def subject(tiny: bool) -> Model:
    """A random model of GPT-2-small's size with a tokenizer of one token a word."""
    module = make_module("gpt2", tiny=tiny)
    return load_model(module, tokenizer=word_tokenizer(module.config.vocab_size))  # type: ignore[union-attr, arg-type]


def texts(model: Model, n_tokens: int, seed: int = 0) -> TextList:
    """Documents of 60 to 600 words."""
    rng = np.random.default_rng(seed)
    found, held = [], 0
    while held < n_tokens:
        length = int(rng.integers(60, 600))
        found.append(" ".join(f"w{i}" for i in rng.integers(1, model.module.config.vocab_size, length)))  # type: ignore[union-attr]
        held += length
    return TextList(tuple(found))


def planned(model: Model, folder: Path, n_tokens: int, *, threads: int | None = None, shard: int = SHARD) -> Harvest:
    """A plan of about so many tokens, packed."""
    wish = Wish(("resid_post", "embed"), context=CONTEXT, batch_tokens=BATCH, shard_tokens=shard, threads=threads)
    return open_harvest(model, texts(model, n_tokens), folder, wish)


def cost_row(model: Model, folder: Path, pairs: int, shard_tokens: int) -> Row:
    """One shard at a time and waited for to its commit, which in a run goes on beside the next; between two bare forwards over the
    tokens of that shard."""
    harvest = planned(model, folder / "cost", (pairs + 1) * shard_tokens, shard=shard_tokens)
    timing, waited = beside_bare(model, harvest, pairs)
    note = f"waited for the disk {100 * waited:.0f} % of the time"
    return timed(GROUP, "harvest, planning aside", timing, target=1.10, note=note)


def one_layer_row(model: Model, folder: Path) -> Row:
    """One layer of the stream, as the peer can store it; blocks above it are not run."""
    wish = Wish((f"L{saelens.LAYER}.resid_post",), context=CONTEXT, batch_tokens=BATCH, shard_tokens=SHARD)
    harvest = open_harvest(model, texts(model, 4 * SHARD, seed=1), folder / "one-layer", wish)
    timing, _ = beside_bare(model, harvest, 3)
    return timed(GROUP, f"one layer ({saelens.LAYER}) alone", timing, note="blocks above it are not run")


def beside_bare(model: Model, harvest: Harvest, pairs: int) -> tuple[Timing, float]:
    """Shards 1 to `pairs` over the bare forward of the same tokens before and after each; the share of the time spent waiting."""
    worker = harvest.worker
    with worker.ledger:
        worker.do(0)  # warms up
        store = Store.open(harvest.place.url)
        around, mine = [bare_seconds(model, store, 1)], []
        for shard in range(1, pairs + 1):
            mine.append(worker.do(shard))
            around.append(bare_seconds(model, store, min(shard + 1, pairs)))  # the plan's own last shard is a remainder
    seconds, waited = (np.array([report[what] for report in mine]) for what in ("seconds", "waited"))
    found = seconds / ((np.array(around[:-1]) + np.array(around[1:])) / 2)
    timing = Timing(float(np.median(found)), *interval(found), float(np.median(found)), len(found))
    return timing, float(waited.sum() / seconds.sum())


def peer_row() -> list[Row]:
    """The peer's runner for one layer; all 13 parts take it as many runs, which are counted and not measured."""
    found = saelens.measured()
    if "error" in found:
        return [Row(GROUP, "SAELens' cache runner", "", note=str(found["error"]))]
    ratios = np.array(found["ratios"])
    timing = Timing(float(np.median(ratios)), *interval(ratios), float(np.median(ratios)), len(ratios))
    note = f"one hook point a run: 13 runs, {13 * timing.value:.0f} bare forwards, for what the first row stores in one"
    return [timed(GROUP, f"SAELens {found['version']}, cache runner, layer {saelens.LAYER} alone", timing, note=note)]


def bare_seconds(model: Model, store: Store, shard: int) -> float:
    """Seconds of the bare module over the rows of one shard in the same batches, with its logits as it comes."""
    rows = [ids for ids in store.tokens(shard).ids if len(ids) == CONTEXT]
    if not rows:
        raise ValueError(f"shard {shard} has no full row to time")
    per = BATCH // CONTEXT
    start = time.perf_counter()
    with torch.no_grad():
        for at in range(0, len(rows), per):
            ids = torch.from_numpy(np.stack(rows[at : at + per])).long()
            model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return time.perf_counter() - start


def disk_row(folder: Path) -> Row:
    """Bytes of the whole store over those of its values."""
    store = Store.open(folder / "cost")
    values = len(store) * 13 * int(np.prod(store.sites[0].shape)) * 4
    held = sum(path.stat().st_size for path in (folder / "cost").rglob("*") if path.is_file())
    planned_only = store.plan.n_tokens / max(
        1, len(store)
    )  # tokens of shards that were not computed are on the disk, too
    share = held / values
    note = f"{held / 1e6:,.0f} MB; tokens, text and records of {planned_only:.1f} times the tokens are in it"
    return Row(GROUP, "bytes on disk over bytes of values", f"{share:.4f}", share, None, 1.02, "", note)


def reading_rows(folder: Path, times: int) -> list[Row]:
    """Shuffled reading for training beside reading the same files in order, both with a cold page cache."""
    store_folder = folder / "cost"
    files = sorted((store_folder / "acts" / "resid_post").rglob("*.safetensors"))
    size = sum(path.stat().st_size for path in files)
    parts = [("resid_post", layer) for layer in range(12)]
    rows = []
    for verify, cold in ((True, True), (False, True), (True, False)):
        rates = []
        for _ in range(times):
            plain = rate(lambda: read_plainly(files), files, size, cold=cold)
            ours = rate(lambda v=verify: read_ours(store_folder, parts, v), files, size, cold=cold)
            rates.append((ours / plain, ours, plain))
        share, ours, plain = (float(np.median(column)) for column in zip(*rates, strict=True))
        what = f"shuffled reading, {'checked' if verify else 'unchecked'}, {'cold' if cold else 'warm'} page cache"
        note = f"{ours / 1e6:,.0f} MB/s; the files one after the other into one buffer {plain / 1e6:,.0f} MB/s"
        note += wanted(share, 0.8) if cold and verify else ""
        rows.append(Row(GROUP, what, f"{share:.2f} of a plain read", note=note))
    return rows


def rate(call: Callable[[], None], files: list[Path], size: int, *, cold: bool) -> float:
    """Bytes a second."""
    if cold:
        for path in files:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    call()
    return size / (time.perf_counter() - start)


def read_plainly(files: list[Path]) -> None:
    """Every file into one buffer."""
    buffer = bytearray(1 << 20)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def read_ours(folder: Path, parts: "list[tuple[str, int]]", verify: bool) -> None:
    """One shuffled epoch over all layers."""
    store = Store.open(folder, verify=verify)
    for batch in Shuffled(store, parts, batch=1024, buffer_tokens=8192):  # type: ignore[arg-type]
        del batch


MEMORY = """
import resource, sys
from pathlib import Path
from benchmarks.speed.harvests import planned, subject
from conceptlab.runs.job import work
model = subject(False)
harvest = planned(model, Path({folder!r}), {tokens}, shard=2048)
for report in work(harvest.worker):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def memory_rows(folder: Path) -> list[Row]:
    """Peak memory of a process that harvests a corpus, and of one that harvests ten times as much."""
    peaks = []
    for times in (1, 10):
        script = MEMORY.format(folder=str(folder / f"memory-{times}"), tokens=times * 2_000)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    share = peaks[1] / peaks[0]
    note = f"{peaks[0] / 1e6:,.0f} MB and {peaks[1] / 1e6:,.0f} MB; with the interpreter, torch and the model"
    return [Row(GROUP, "peak memory with ten times the corpus", f"{share:.3f}", share, None, 1.05, "", note)]


def worker_rows(folder: Path, rounds: int = 3) -> list[Row]:
    """One and two worker processes of one thread each, once each has computed a shard; beside them one and two processes that do
    nothing but multiply, which is what this machine's cores allow. Measured in turn, as the machine's speed moves."""
    model = subject(tiny=False)
    source = folder / "model"
    model.module.save_pretrained(source)  # type: ignore[operator]
    model.tokenizer.save_pretrained(source)
    model = load_model(str(source))
    found = np.array([worker_round(model, source, folder / f"workers-{k}") for k in range(rounds)])
    shares, products = found[:, 1] / found[:, 0], found[:, 2]
    (low, high), share = interval(shares), float(np.median(shares))
    one, two = np.median(found[:, :2], axis=0)
    note = f"{rounds} rounds, {one:,.0f} and {two:,.0f} tokens/s on {os.cpu_count()} cores; products alone "
    note += f"{np.median(products):.2f} times" + wanted(share, 1.8)
    return [Row(GROUP, "two local workers over one", f"{share:.2f} [{low:.2f}, {high:.2f}] times", note=note)]


def worker_round(model: Model, source: Path, folder: Path) -> tuple[float, float, float]:
    """Tokens a second of one worker and of two, and how many times the products of one process two of them compute."""
    rates = []
    for n_workers in (1, 2):
        harvest = planned(model, folder / str(n_workers), SHARDS * 2048, threads=1, shard=2048)
        job = job_of(harvest, str(source), {})
        rates.append(
            steady(partial(processes, job, n_workers) if n_workers > 1 else partial(in_process, job), n_workers)
        )
    shutil.rmtree(folder)
    return rates[0], rates[1], multiplying(2) / multiplying(1)


MULTIPLY = """
import time, torch
torch.set_num_threads(1)
a, b = torch.randn(2048, 768), torch.randn(768, 3072)
torch.mm(a, b)
done, start = 0, time.perf_counter()
while time.perf_counter() - start < 8:
    torch.mm(a, b)
    done += 1
print(done / (time.perf_counter() - start))
"""


def multiplying(n: int) -> float:
    """Matrix products a second of `n` processes of one thread that run at once."""
    line = [sys.executable, "-c", MULTIPLY]
    running = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    return sum(float(process.communicate()[0]) for process in running)


def wanted(share: float, least: float) -> str:
    """Whether a share is as large as it should be."""
    return f"; at least {least:g} wanted: {'met' if share >= least else 'missed'}"


def steady(launch: Callable[..., Reports], n_workers: int) -> float:
    """Tokens a second from the last batch of every worker's first shard to the last commit."""
    ticks: list[tuple[float, int, int]] = []  # when, shard, tokens
    for _ in launch(on_tick=lambda said: ticks.append((time.perf_counter(), said["shard"], said["tick"]))):
        pass
    end, start = time.perf_counter(), max(when for when, shard, _ in ticks if shard < n_workers)
    return sum(tokens for when, _, tokens in ticks if when > start) / (end - start)
