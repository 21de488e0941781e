"""ACDC: prune the graph edge by edge with exact patching, from the logits down, and keep what cannot be taken away.

Source: Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability (NeurIPS 2023). Receivers are
visited from the logits down (within a layer the MLP, then values, keys and queries of the last head first), senders of a
receiver from the latest to the embedding. An edge is taken out (its receiver then sees the corrupted sender); where the metric
gets worse by less than the threshold it stays out, else it comes back. "Worse" is a rise of the divergence from the clean run,
or a fall of a task metric, mean over rows; `absolute=True` counts a change in either direction, which keeps edges that work
against the task.

Exact shortcuts: an edge changes nothing when its sender writes the same on both rows or its receiver reaches no logits any
more, and is taken out without a run. Candidates of one receiver run together as a chain - without the first, without the first
two, … - which are just the runs of the one-by-one procedure as long as every one is taken out; at the first that comes back the
rest of the chain is thrown away and a new one starts behind it. Runs resume at the receiver's block. Runs are remembered over
thresholds.

Departures: `candidates` (a prescreen, for instance by EAP-IG) takes all other edges out beforehand, and the settings say what that
cost; faithfulness stands beside random circuits with as many edges into each layer. The order decides which of two interchangeable
edges (an OR) is kept: the one that is visited last. Check completeness (`measure/circuits/completeness_minimality.py`).
Cost: a run of the blocks above the receiver for every live edge, and for every kept edge what is left of its chain.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.measure.circuits.faithfulness import beside_random
from conceptlab.model.edge_run import EdgeRun
from conceptlab.model.edge_state import reaching
from conceptlab.model.metric import Metric, kl_from
from conceptlab.results import Circuit, Provenance
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "ACDC",
    "paper": "Conmy et al. 2023, Towards Automated Circuit Discovery for Mechanistic Interpretability",
    "tags": ["circuits", "patching", "edges"],
    "takes": "a prepared EdgeRun (clean and corrupted rows), thresholds, a metric (default: divergence from the clean run)",
    "returns": "Circuit",
    "cost": "a run of the blocks above the receiver for every live edge and threshold",
}

Order = Literal["latest first", "earliest first"]
CHAIN = (8, 64)  # candidates in a first chain, and at most
GRID = tuple(float(t) for t in np.logspace(-3, 0, 20).round(6))


@dataclass(frozen=True, eq=False)
class Pruning:
    """One threshold's `circuit` and `trace` (axis `step`: source, target, metric without the edge, how much worse, kept)."""

    threshold: float
    circuit: Circuit
    trace: xr.Dataset


@dataclass(eq=False)
class _Runs:
    """Runs of circuits by their edges, each once. `n` counts them."""

    run: EdgeRun
    metric: Metric
    sign: float
    known: dict[bytes, np.ndarray] = field(default_factory=dict)

    def losses(self, masks: np.ndarray) -> np.ndarray:
        """How bad each circuit is [circuit, row]."""
        keys = [row.tobytes() for row in np.packbits(masks, 1)]
        new = [i for i, key in enumerate(keys) if key not in self.known]
        if new:
            values = self.sign * self.run.evaluate(masks[new], self.metric)
            self.known |= {keys[i]: row for i, row in zip(new, values, strict=True)}
        return np.stack([self.known[key] for key in keys])


@dataclass(eq=False)
class _Search:
    """The state of one pruning: which edges are `left` and the steps so far."""

    runs: _Runs
    threshold: float
    absolute: bool
    order: Order
    left: np.ndarray
    differs: np.ndarray
    steps: list[tuple[int, float, float, bool]] = field(default_factory=list)
    rows: dict[int, np.ndarray] = field(default_factory=dict)

    def prune(self, receiver: int) -> None:
        """Try every edge into one receiver."""
        shape = self.runs.run.shape
        start = int(shape.offsets[receiver])
        edges = start + np.flatnonzero(self.left[start : start + shape.n_before[receiver]])
        live = self.differs[edges] if self._reaches(receiver) else np.zeros(len(edges), dtype=bool)
        self.left[edges[~live]] = False
        pending = edges[live][::-1] if self.order == "latest first" else edges[live]
        size = CHAIN[0]
        while len(pending):
            done, all_out = self._chain(pending[:size])
            pending, size = pending[done:], min(2 * size, CHAIN[1]) if all_out else CHAIN[0]

    def _chain(self, edges: np.ndarray) -> tuple[int, bool]:
        """Take `edges` out one after the other until one must stay. Returns how many were decided and whether all are out."""
        masks = np.repeat(self.left[None], len(edges) + 1, 0)
        for i, edge in enumerate(edges):
            masks[i + 1 :, edge] = False
        losses = self.runs.losses(masks)
        worse = np.diff(losses, axis=0)
        for i, edge in enumerate(edges):
            change = float(worse[i].mean())
            kept = (abs(change) if self.absolute else change) >= self.threshold
            self.steps.append((int(edge), float(self.runs.sign * losses[i + 1].mean()), change, bool(kept)))
            if kept:
                self.rows[int(edge)] = worse[i]
                return i + 1, False
            self.left[edge] = False
        return len(edges), True

    def _reaches(self, receiver: int) -> bool:
        shape = self.runs.run.shape
        if receiver == len(shape.receivers) - 1:
            return True
        served, sender = shape.serves
        return bool(reaching(shape, self.left[None])[0, sender[served == receiver]].any())


def acdc(  # noqa: PLR0913 - one experiment, fully stated
    run: EdgeRun,
    thresholds: float | Sequence[float] = GRID,
    metric: Metric | None = None,
    *,
    absolute: bool = False,
    order: Order = "latest first",
    candidates: Circuit | None = None,
    n_random: int = 10,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[Pruning, ...]:
    """Prune once for each threshold (in units of the metric), smallest first.

    `metric` None is the divergence KL(clean || circuit) at the last position, in nats. A circuit's `weights` say how much worse the
    metric got when the edge was tried, `low` and `high` are their 95 % interval over rows. `provenance.settings` holds threshold,
    order, `n_runs` so far, and `faithfulness` (0 no edge, 1 the whole graph) beside `faithfulness_random` (mean and largest of
    `n_random` random circuits of equal size by layer). Raises InputError for thresholds that are not positive, and as
    `EdgeRun.evaluate` does.
    """
    grid = np.unique(np.atleast_1d(np.asarray(thresholds, dtype=float)))
    if not len(grid) or not (grid > 0).all():
        raise InputError(f"thresholds must be positive numbers in units of the metric; got {thresholds}")
    if order not in ("latest first", "earliest first"):
        raise InputError(f'order={order!r} is not known; use "latest first" or "earliest first"')
    chosen = kl_from(run.model.logits(run.clean)) if metric is None else metric
    runs = _Runs(run, chosen, 1.0 if chosen.name == "kl" else -1.0)
    first = np.ones(run.shape.n_edges, dtype=bool) if candidates is None else run.mask(candidates)[0]
    found = []
    with progress.task("thresholds", total=len(grid)) as task:
        for threshold in grid:
            search = _Search(runs, float(threshold), absolute, order, first.copy(), run.differs())
            for receiver in range(len(run.shape.receivers) - 1, -1, -1):
                search.prune(receiver)
            found.append(_finished(search, first, n_random, seed))
            task.advance()
    return tuple(found)


def survival(prunings: Iterable[Pruning]) -> Circuit:
    """All edges of the graph, each with the largest threshold at which it was kept (0: at none): a score for rankings and AUROC."""
    prunings = list(prunings)
    circuit = prunings[0].circuit
    weights = np.zeros(circuit.shape.n_edges)
    for pruning in sorted(prunings, key=lambda p: p.threshold):
        weights[pruning.circuit.edge_numbers] = pruning.threshold
    source, target = circuit.shape.edges_of(np.arange(len(weights)))
    return Circuit(circuit.shape, source, target, weights, circuit.provenance, circuit.metric)


def _finished(search: _Search, first: np.ndarray, n_random: int, seed: int) -> Pruning:
    runs, run = search.runs, search.runs.run
    kept = np.flatnonzero(search.left)
    rows = np.stack([search.rows[int(edge)] for edge in kept], 1) if len(kept) else np.zeros((run.n_rows, 0))
    none = np.zeros(0)
    low, high = bootstrap_mean(rows, seed=seed) if len(kept) else (none, none)
    source, target = run.shape.edges_of(kept)
    settings = {
        "threshold": search.threshold, "order": f"receivers from the logits down, senders {search.order}",
        "absolute": search.absolute, "ablation": run.ablation, "candidates": int(first.sum()),
    }  # fmt: skip
    base = Provenance("ACDC", run.n_rows, seed, model=run.model.name, revision=run.model.revision, causal="patching")
    circuit = Circuit(run.shape, source, target, rows.mean(0), base, runs.metric.name, low=low, high=high)
    beside = beside_random(run, runs.metric, [circuit], n_random=n_random, seed=seed)
    settings |= {
        "faithfulness": float(beside.share[0]),
        "faithfulness_random": [float(beside.random[0].mean()), float(beside.random[0].max())] if n_random else [],
        "n_runs": len(runs.known),
    }
    if not first.all():
        settings["faithfulness_candidates"] = float(beside.ends.share(run.evaluate(first[None], runs.metric))[0])
    provenance = Provenance(
        "ACDC", run.n_rows, seed, model=run.model.name, revision=run.model.revision, settings=settings,
        passes=round(run.passes), causal="patching", warnings=beside.ends.warnings,
    )  # fmt: skip
    circuit = Circuit(run.shape, source, target, rows.mean(0), provenance, runs.metric.name, low=low, high=high)
    return Pruning(search.threshold, circuit, _trace(search))


def _trace(search: _Search) -> xr.Dataset:
    """Steps that were run, in order."""
    shape = search.runs.run.shape
    edges = np.array([step[0] for step in search.steps], dtype=np.int64)
    source, target = shape.edges_of(edges)
    columns = {
        "source": [shape.senders.names[s] for s in source],
        "target": [shape.receivers.names[t] for t in target],
        "metric": [step[1] for step in search.steps],
        "worse": [step[2] for step in search.steps],
        "kept": [step[3] for step in search.steps],
    }
    return xr.Dataset({name: ("step", np.array(values)) for name, values in columns.items()})
