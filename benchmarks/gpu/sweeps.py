"""Sweeps and edge attribution on the device: milliseconds, bare forwards of the same prompt, and the share of the matrix peak.

Operations are two for every multiply-add of a weight, of the plan and of the plain way (one whole forward for every edit and row);
attention's own products, small at these lengths, are not counted. The bare forward's own share of the peak stands beside: a prompt
of 32 tokens reads every weight for 32 rows of a product, so it is far from the peak whatever runs it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.speed.models import Subject
from benchmarks.speed.sweeps import batch_of, head_edits, metric_of, stream_edits
from conceptlab.find.circuits.edge_attribution import edge_attribution
from conceptlab.model import Batch, Model, load_model
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.sweep import plan_sweep, sweep
from conceptlab.model.sweep.plan import Cost
from conceptlab.results import Circuit, Edit

from .machine import memory, seconds_of, start_memory
from .record import Record
from .shapes import SHAPES, Shape

BUDGET = 16 * 10**9  # bytes of the device for one pass
N_POS, N_ROWS = 32, 16


@dataclass(frozen=True, eq=False)
class Bench:
    """One shape on one device, with the peak of its products."""

    record: Record
    model: Model
    shape: Shape
    peak: float
    n_pos: int
    n_rows: int

    @property
    def section(self) -> str:
        """Where its rows stand."""
        return f"Interventions, {self.shape.name}, bfloat16, {self.n_pos} tokens"

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.device

    def subject(self, rows: int, seed: int = 1) -> Subject:
        """Random rows for the bare module."""
        vocabulary = self.model.module.config.vocab_size  # type: ignore[union-attr]
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(6, int(vocabulary), (rows, self.n_pos), generator=generator)  # type: ignore[arg-type]
        return Subject(self.shape.name, self.model.module, ids.to(self.device))

    def multiply_adds(self, rows: int) -> float:
        """Of a bare forward of so many rows."""
        return rows * Cost.of(self.model).forward(self.n_pos, self.model.n_layers)

    def bare(self, rows: int) -> float:
        """Seconds of a bare forward of so many rows; a row of the table says how near it comes to the peak."""
        subject = self.subject(rows)
        seconds, n = seconds_of(subject.bare, self.device, n=9)
        flops = 2 * self.multiply_adds(rows)
        self.record.add(
            self.section, f"bare forward, {rows} x {self.n_pos} tokens", ms=1e3 * seconds, n=n,
            tflop=flops / 1e12, share_of_peak=flops / seconds / self.peak,
        )  # fmt: skip
        return seconds


def run_sweeps(record: Record, device: torch.device, *, tiny: bool, peak: float) -> None:
    """Both shapes, one after the other; the first is gone before the second is made."""
    for name in SHAPES:
        record.guarded(
            f"Interventions, {name}", "the model", lambda n=name: _shape(record, device, Shape(n, tiny), peak)
        )


def _shape(record: Record, device: torch.device, shape: Shape, peak: float) -> None:
    seconds = []
    model = _timed(lambda: load_model(shape.module(device)), seconds)
    n_pos, n_rows = (8, 2) if shape.tiny else (N_POS, N_ROWS)
    bench = Bench(record, model, shape, peak, n_pos, n_rows)
    strategy = _timed(lambda: model.sweep_strategy, seconds)
    how = f"{strategy.kind}{', late' if strategy.late else ''}{'; ' + strategy.note if strategy.note else ''}"
    record.add(bench.section, "model made and wrapped; shortcuts tried", s=seconds[0], trial_s=seconds[1], how=how)
    one, many = bench.bare(1), bench.bare(n_rows)
    for what, run in _jobs(bench, one, many):
        record.guarded(bench.section, what, run)


def _timed(call: Callable, seconds: list[float]):
    import time

    start = time.perf_counter()
    found = call()
    seconds.append(time.perf_counter() - start)
    return found


def _jobs(bench: Bench, one: float, many: float) -> list[tuple[str, Callable[[], None]]]:
    model, clean = bench.model, batch_of(bench.subject(1).ids)
    other, rows = batch_of(bench.subject(1, seed=7).ids), batch_of(bench.subject(bench.n_rows).ids)
    stream, heads = "stream at all (layer, position)", "every head at all positions"
    ablated = f"ablation of every head, {bench.n_rows} rows"
    return [
        (stream, lambda: _sweep(bench, stream, clean, stream_edits(model, other), one)),
        (heads, lambda: _sweep(bench, heads, clean, head_edits(model, other), one)),
        ("EAP, every edge", lambda: _edges(bench, one)),
        (ablated, lambda: _sweep(bench, ablated, rows, head_edits(model, None), many)),
    ]


def _sweep(bench: Bench, what: str, clean: Batch, edits: list[Edit], bare: float) -> None:
    model, metric = bench.model, metric_of(clean)
    plan = plan_sweep(model, clean, edits, metric, budget_bytes=BUDGET)
    start_memory(bench.device)
    seconds, n = seconds_of(
        lambda: sweep(model, clean, edits, metric, skip_unchanged=False, budget_bytes=BUDGET), bench.device, limit=45.0
    )
    flops = 2 * plan.forward_equivalents * bench.multiply_adds(1)
    bench.record.add(
        bench.section, f"{what}, {len(edits):,} edits", ms=1e3 * seconds, n=n, tflop=flops / 1e12,
        share_of_peak=flops / seconds / bench.peak, bare_forwards=seconds / bare,
        plan_forwards=plan.forward_equivalents / len(clean), plain_tflop=2 * len(edits) * bench.multiply_adds(len(clean)) / 1e12,
        plain_ms=1e3 * len(edits) * bare, passes=plan.n_passes, peak_GB=memory(bench.device),
    )  # fmt: skip


def _edges(bench: Bench, bare: float) -> None:
    model, ids = bench.model, bench.subject(1).ids
    clean, changed = batch_of(ids), ids.clone()
    changed[0, [bench.n_pos // 4, bench.n_pos // 2]] = torch.tensor([4, 5], device=ids.device)
    metric = metric_of(clean)
    for what, n_random in (("EAP, every edge", 10), ("EAP, every edge, without its control", 0)):

        def score(n: int = n_random) -> Circuit:
            return edge_attribution(model, clean, batch_of(changed), metric, n_random=n, budget_bytes=BUDGET)

        edges = graph_of(model).n_edges
        start_memory(bench.device)
        seconds, n = seconds_of(score, bench.device, limit=30.0)
        flops = 2 * (3 * bench.multiply_adds(1) + edges * bench.n_pos * model.d_model)
        bench.record.add(
            bench.section, f"{what}, {edges:,} edges", ms=1e3 * seconds, n=n, tflop=flops / 1e12,
            share_of_peak=flops / seconds / bench.peak, bare_forwards=seconds / bare, peak_GB=memory(bench.device),
        )  # fmt: skip
