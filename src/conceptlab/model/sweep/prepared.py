"""A sweep that is checked: the rows that are kept at once, what the work costs, and the values of any share of its items."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.model.batch import Batch
from conceptlab.model.metric import Metric
from conceptlab.model.sweep.clean import Kept, keep_clean
from conceptlab.model.sweep.packed import Writes
from conceptlab.model.sweep.pattern import PatternEdits
from conceptlab.model.sweep.plain import plain_values
from conceptlab.model.sweep.plan import Cost, Plan, bytes_per_token, default_budget, fit, kept_per_row
from conceptlab.model.sweep.strategy import EXECUTORS, Strategy
from conceptlab.model.sweep.tail import read_metric
from conceptlab.model.sweep.unchanged import unchanged
from conceptlab.model.sweep.work import ABOVE, Item, as_items, in_passes, work_of
from conceptlab.model.sweep.writes import compile_writes
from conceptlab.results import Edit

if TYPE_CHECKING:
    from conceptlab.model.model import Model, Texts


@dataclass(frozen=True)
class Group:
    """Rows of one length, as many as are kept at once."""

    rows: tuple[int, ...]
    n_pos: int
    most_tokens: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """A checked sweep, ready to run."""

    model: "Model"
    batch: Batch
    items: list[tuple[Edit, ...]]
    metric: Metric
    strategy: Strategy
    groups: list[Group]
    skip: bool
    _held: dict[Group, Kept] = field(default_factory=dict)

    def kept(self, group: Group) -> Kept:
        """The clean run of a group; only that of the last group asked for is held."""
        if group not in self._held:
            self._held.clear()
            batch = self.batch.select(group.rows)
            attention = self.strategy.kind == "packed"
            self._held[group] = keep_clean(self.model, batch, attention=attention, late=self.strategy.late)
        return self._held[group]

    def at(self, n_pos: int) -> int:
        """The position that is read in rows of `n_pos` tokens."""
        return n_pos - 1 if self.metric.position == "last" else int(self.metric.position)


def prepare(
    model: "Model", clean: "Texts", edits: Sequence[Item], metric: Metric, budget_bytes: int | None, skip: bool
) -> Prepared:
    """Check a sweep (the arguments of `sweep`). Raises InputError or SiteError for what cannot be run."""
    items, batch = as_items(edits), model.encode(clean)
    if metric.n_rows not in (None, len(batch)):
        raise InputError(f"the metric is for {metric.n_rows} rows, and there are {len(batch)} clean rows")
    for item in items:
        for edit in item:
            model.check_edit(edit)
    if metric.site is not None:
        model.tap(metric.site.name, metric.site.layer)
    elif not model.has_logits:
        raise InputError(f"{model.name} has no logits, so {metric.name} cannot be read; use a metric of a site")
    strategy = model.sweep_strategy
    if any(edit.site.name in ABOVE for item in items for edit in item):
        strategy = replace(strategy, kind="full", note="edits above the last block are run as plain forwards")
    if strategy.kind == "packed" and metric.position != "last":
        strategy = replace(strategy, kind="whole", note="positions are skipped only where the last one is read")
    return Prepared(model, batch, items, metric, strategy, _groups(model, batch, strategy, budget_bytes), skip)


def _groups(model: "Model", batch: Batch, strategy: Strategy, budget_bytes: int | None) -> list[Group]:
    budget = default_budget() if budget_bytes is None else budget_bytes
    groups = []
    for n_pos in sorted(set(batch.lengths)):
        rows = [r for r, n in enumerate(batch.lengths) if n == n_pos]
        at_once, tokens = fit(model, n_pos, len(rows), budget, attention=strategy.kind == "packed")
        groups += [Group(tuple(rows[i : i + at_once]), n_pos, tokens) for i in range(0, len(rows), at_once)]
    return groups


def _work(job: Prepared, group: Group, share: np.ndarray):
    causal = job.strategy.kind == "packed"
    return work_of([job.items[i] for i in share], group.rows, group.n_pos, job.model.n_layers, causal=causal)


def plan_of(job: Prepared) -> Plan:
    """What the sweep will cost; its seconds are not known yet."""
    model, packed, cost = job.model, job.strategy.kind == "packed", Cost.of(job.model)
    equivalents, passes, peak = 0.0, 0, 0
    for group in job.groups:
        bare = cost.forward(group.n_pos, model.n_layers)
        work = _work(job, group, np.arange(len(job.items)))
        if job.strategy.kind == "full":
            equivalents, passes = equivalents + len(work), passes + len(job.items)
            continue
        last = packed and job.metric.site is None
        head = cost.head if job.metric.tokens is None and job.metric.site is None else 0.0
        total = cost.units(work, group.n_pos, model.n_layers, last_alone=last, late=job.strategy.late)
        equivalents += (total + head * len(work)) / bare + len(group.rows)
        tokens = int((group.n_pos - work.start).sum())
        passes += -(-tokens // group.most_tokens)
        held = len(group.rows) * kept_per_row(model, group.n_pos, attention=packed)
        peak = max(peak, held + min(tokens, group.most_tokens) * bytes_per_token(model))
    n_units = len(job.items) * len(job.batch)
    return Plan(
        job.strategy.kind, len(job.items), len(job.batch), n_units, 0, passes, equivalents, peak, note=job.strategy.note
    )


def clean_values(job: Prepared) -> tuple[np.ndarray, float]:
    """The unedited metric [row], and how long the clean forward of one row takes."""
    start, base = time.perf_counter(), np.full(len(job.batch), np.nan)
    if job.strategy.kind == "full":
        base = plain_values(job.model, job.batch, (), job.metric)
    for group in job.groups if job.strategy.kind != "full" else ():
        rows = np.arange(len(group.rows))
        base[list(group.rows)] = _values_of(job, job.kept(group), _clean_ends(job, job.kept(group)), rows, group)
    seconds = (time.perf_counter() - start) / len(job.batch)
    if not np.isfinite(base).all():
        row = int(np.flatnonzero(~np.isfinite(base))[0])
        raise InputError(
            f"{job.metric.name} of the unedited row {row} is not a finite number; look at the model's own logits first"
        )
    return base, seconds


def _clean_ends(job: Prepared, kept: Kept) -> torch.Tensor:
    """What the metric reads of the clean run, [row, width]."""
    site, at = job.metric.site, job.at(kept.run.n_pos)
    if site is None:
        return kept.run.streams[-1][:, at]
    if site.name in ("resid_pre", "resid_post"):
        return kept.run.streams[(site.layer or 0) + (site.name == "resid_post")][:, at]
    batch = Batch(tuple(map(tuple, kept.run.ids.tolist())))
    return job.model.capture(batch, site.name, layers=[site.layer or 0], positions=[at])[site.name][:, 0]


def run_share(job: Prepared, share: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, int, float]]:
    """(rows, items of the share, values, units skipped, forwards) of every pass of a share."""
    if job.strategy.kind == "full":
        for position, item in enumerate(share):
            values = plain_values(job.model, job.batch, job.items[item], job.metric)
            yield np.arange(len(values)), np.full(len(values), position), values, 0, float(len(values))
        return
    items = [job.items[i] for i in share]
    for group in job.groups:
        yield from _run_group(job, group, items, share)


def _run_group(job: Prepared, group: Group, items: list[tuple[Edit, ...]], share: np.ndarray):
    model, rows, kept = job.model, np.array(group.rows), job.kept(group)
    writes = compile_writes(items, group.rows, job.batch.lengths)
    work = _work(job, group, share)
    same = unchanged(kept, items, writes, work) if job.skip else np.zeros(len(work), dtype=bool)
    if same.any():
        chosen = work.select(np.flatnonzero(same))
        base = _values_of(job, kept, _clean_ends(job, kept)[torch.from_numpy(chosen.row)], chosen.row, group)
        yield rows[chosen.row], chosen.item, base, len(base), 0.0
    executor = _executor(job, group, kept, writes, items)
    cost, todo = Cost.of(model), work.select(np.flatnonzero(~same))
    last = job.strategy.kind == "packed" and job.metric.site is None
    for part in in_passes(todo, group.n_pos, group.most_tokens):
        chosen = todo.select(part)
        values = _values_of(job, kept, executor.run(chosen), chosen.row, group)
        ran = cost.units(chosen, group.n_pos, model.n_layers, last_alone=last, late=job.strategy.late) / cost.forward(
            group.n_pos, model.n_layers
        )
        yield rows[chosen.row], chosen.item, values, 0, ran


def _values_of(job: Prepared, kept: Kept, ends: torch.Tensor, rows: np.ndarray, group: Group) -> np.ndarray:
    """The metric [unit] of `ends` [unit, width], which stand on rows `rows` [unit] of the group."""
    source = torch.tensor(group.rows)[torch.from_numpy(rows)]
    return read_metric(kept, job.metric, ends, torch.from_numpy(rows), source, job.at(group.n_pos)).cpu().numpy()


def _executor(job: Prepared, group: Group, kept: Kept, writes: Writes, items: list[tuple[Edit, ...]]):
    patterns: dict[int, dict[int, list[Edit]]] = {}
    for number, item in enumerate(items):
        for edit in (e for e in item if e.site.name == "pattern"):
            patterns.setdefault(edit.site.layer or 0, {}).setdefault(number, []).append(edit)
    by_layer = {
        layer: PatternEdits(by_item, group.rows, tuple(job.batch.lengths)) for layer, by_item in patterns.items()
    }
    site = None if job.metric.site is None else (job.metric.site.name, job.metric.site.layer or 0)
    executor = EXECUTORS[job.strategy.kind](kept, writes, by_layer, len(items), site)
    if job.strategy.kind == "whole":
        executor.at = job.at(group.n_pos)  # type: ignore[union-attr]
    return executor


def refuse_nan(job: Prepared, found: np.ndarray, mine: np.ndarray) -> None:
    """Raise InputError where a value [item, row] of the items `mine` is no finite number."""
    bad = np.argwhere(~np.isfinite(found[mine]))
    if len(bad):
        item, row = int(mine[bad[0][0]]), int(bad[0][1])
        raise InputError(
            f"edit {item} ({', '.join(map(str, job.items[item]))}) gives a {job.metric.name} of row {row} that is NaN or infinite; "
            "look at the values that it writes"
        )
