"""`python -m benchmarks.scale`: what a harvest would take on many machines, from times measured here; writes docs/scale.md.

Shards of a real harvest are timed on this machine (one worker, one thread). Their times, and the time to load the model, are then
played out for more workers by the rule that the launchers follow: each begins with its own shards and then takes what nobody has.
Nothing sleeps in place of work, and nothing here was run on more than one machine.
"""

import datetime
import heapq
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conceptlab.model import load_model
from conceptlab.runs.job import order, work

from .speed.harvests import planned, subject

DOCS = Path(__file__).resolve().parents[1] / "docs" / "scale.md"
N_TIMED, SHARD = 24, 2048
WORKERS = (1, 8, 64, 512)
N_SHARDS = 20_000
LOSS = 1 / 3600  # chance a second that a worker is lost: once an hour, as on machines that may be taken away


@dataclass(frozen=True)
class Played:
    """Seconds until the last shard is committed, and the share of the workers' time that went into kept shards."""

    seconds: float
    efficiency: float
    lost: int


def play(
    times: np.ndarray, n_workers: int, start: float, *, loss: float = 0.0, restart: float = 0.0, seed: int = 0
) -> Played:
    """Play a harvest: `times` [shard] are the seconds of each. A lost worker loses its shard and is away for `restart` seconds."""
    rng = np.random.default_rng(seed)
    orders = [iter(order(len(times), rank, n_workers)) for rank in range(n_workers)]
    taken = np.zeros(len(times), dtype=bool)
    again: list[int] = []
    events = [(start, rank, -1) for rank in range(n_workers)]
    heapq.heapify(events)
    end, useful, lost = 0.0, 0.0, 0
    while events:
        now, rank, done = heapq.heappop(events)
        if done >= 0:
            end, useful = max(end, now), useful + times[done]
        shard = again.pop() if again else next((s for s in orders[rank] if not taken[s]), -1)
        if shard < 0:
            continue
        taken[shard] = True
        if loss and rng.random() < 1 - np.exp(-loss * times[shard]):
            lost += 1
            again.append(shard)
            heapq.heappush(events, (now + times[shard] * rng.random() + restart, rank, -1))
        else:
            heapq.heappush(events, (now + times[shard], rank, shard))
    return Played(end, useful / (end * n_workers), lost)


def measured() -> tuple[np.ndarray, float]:
    """Seconds of each of some shards of GPT-2-small size here, and seconds to load the model from disk."""
    with tempfile.TemporaryDirectory() as folder:
        model = subject(tiny=False)
        model.module.save_pretrained(Path(folder) / "model")  # type: ignore[operator]
        start = time.perf_counter()
        load_model(str(Path(folder) / "model"), tokenizer=model.tokenizer)
        loading = time.perf_counter() - start
        harvest = planned(model, Path(folder) / "store", N_TIMED * SHARD, threads=1, shard=SHARD)
        times = [report["seconds"] for report in work(harvest.worker) if report["tokens"] >= SHARD]
    return np.array(times[1:]), loading


def table(times: np.ndarray, loading: float) -> str:
    """One line a number of workers."""
    drawn = np.random.default_rng(1).choice(times, N_SHARDS)
    alone = play(drawn, 1, loading)
    lines = [
        "| workers | hours | times one worker | efficiency | with losses: hours | lost shards |",
        "|---|---|---|---|---|---|",
    ]
    for n in WORKERS:
        plain, lossy = play(drawn, n, loading), play(drawn, n, loading, loss=LOSS, restart=60 + loading)
        lines.append(
            f"| {n} | {plain.seconds / 3600:.2f} | {alone.seconds / plain.seconds:.1f} | {plain.efficiency:.3f} "
            f"| {lossy.seconds / 3600:.2f} | {lossy.lost} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, play, write."""
    load = os.getloadavg()[0]
    times, loading = measured()
    text = PAGE.format(
        date=datetime.date.today().isoformat(), load=load, n=len(times), shard=SHARD, median=float(np.median(times)),
        low=float(times.min()), high=float(times.max()), loading=loading, n_shards=N_SHARDS, table=table(times, loading),
    )  # fmt: skip
    DOCS.write_text(text, encoding="utf-8")
    print(text)


PAGE = """# A harvest on many machines

## Played out from times measured here

Measured {date}, load {load:.1f} at the start: {n} shards of {shard:,} tokens of a model of GPT-2-small's size (stream of 12 layers
and embedding, float32, one worker of one thread, written and hashed as in use) took {median:.2f} s each ({low:.2f} to {high:.2f});
loading the model took {loading:.1f} s. {n_shards:,} such shards, with times drawn from the measured ones, played out by the rule of
the launchers (own shards first, then what nobody has):

{table}

"With losses": every worker is lost once an hour on average, loses the shard in hand, and is back after a minute and the time to
load. What this leaves out: workers that share a disk, a link or a memory bus slow each other; that shows only on real machines, and
no more than one was at hand. Made by `python -m benchmarks.scale`.

A run ends at most one shard after the last one was begun, so efficiency falls only where a worker gets few shards (here 39 at 512
workers); `--shard-tokens` sets how many there are.

## 10 billion tokens of a 70B model, on paper

The best published figure is Activault's: 10 billion tokens, 6 layers of Llama-3.3-70B, 3.5 days on one node of 8 GPUs, into S3.

| quantity | arithmetic | value |
|---|---|---|
| values | 10e9 tokens x 6 layers x 8,192 x 2 bytes | 983 TB |
| arithmetic of the forwards | 2 x 70e9 x 10e9, no unembedding | 1.4e21 |
| 8 GPUs of 989 TFLOP/s (H100, bf16, dense) at 60 % of that | 1.4e21 / (8 x 593e12) | 3.4 days |
| the published run | 3.5 days | 33,000 tokens/s, 3.25 GB/s of values |
| hashing (a file and its blocks) | 2 x 3.25 GB/s at 0.74 GB/s a core (measured here) | 9 cores of the node |
| upload | 3.25 GB/s | 26 Gbit/s |
| storage, at 23 USD a TB and month | 983 TB | 22,600 USD a month |
| node, at 2.5 USD a GPU and hour | 8 x 84 h | 1,680 USD |

If its GPUs were H100s, the published run does what good kernels reach. What there is to add is not speed on one node but that a
killed run goes on, that every byte is checked, and that nodes can be added: 8 nodes would take 10.5 hours at the efficiency of the
table above, at the same price. Where only layers up to the middle are wanted, the forward stops there, and time and price halve.
These are sums on paper; no 70B model was run, and the prices are assumptions.
"""


if __name__ == "__main__":
    main()
