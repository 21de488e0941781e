"""Which few edges explain this behaviour, and how sure are we? Gradients rank, exact patching re-ranks, held-out rows decide.

1. Rows are dealt into two halves. On the first, integrated gradients score all edges (EAP-IG) and the top part is kept; a graph
   that is no larger than that part is searched exactly from the start.
2. Every kept edge is patched exactly, in both directions (an OR hides from noising, an AND from denoising), and ranked by the
   larger effect on the first half. The circuit is the shortest beginning of that ranking whose share of the behaviour is close
   enough to 1 there, with every edge that is about as strong as its last one: an order among equals must not hide a second path.
3. On the second half, which chose nothing, each edge's effect is measured with its interval beside its turned copies; edges that
   do not beat them (q over the circuit's edges) or do less than `min_effect` are dropped. What is left is run alone, beside random
   circuits with as many edges into each layer.
4. Rows of the first half are drawn again: how often is each edge chosen? And some edges that the gradients put below are patched
   after all: how much may have been missed?

Sources: Hanna et al. 2024 (EAP-IG), Conmy et al. 2023 (exact edges), Wang et al. 2023 (faithfulness); the division into halves
is ours. Cost: EAP-IG on half the rows; 22 runs of the blocks above the receiver for every kept edge (2 directions, real and
10 times turned), 2 for every checked one; a circuit run for every size that is tried, and for every random circuit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from conceptlab.find.circuits.chosen_edges import (
    RUNS_AN_EDGE,
    SIZES,
    PatchedEdges,
    confirmed,
    how_often,
    patch_both,
    shortest_circuit,
    stronger,
)
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.measure.circuits.ends import ends_of
from conceptlab.measure.circuits.faithfulness import circuit_faithfulness
from conceptlab.model.batch import Batch
from conceptlab.model.edge_run import EdgeRun, edge_run
from conceptlab.model.metric import Metric
from conceptlab.model.model import Model, Texts
from conceptlab.plot import circuit_graph
from conceptlab.results import Circuit, Provenance, Scores
from conceptlab.runs import SILENT, Part, Progress, Task

CARD = {
    "name": "explain a behaviour by edges",
    "paper": "Hanna et al. 2024 (EAP-IG), Conmy et al. 2023 (exact edges), Wang et al. 2023 (faithfulness)",
    "tags": ["circuits", "patching", "edges"],
    "takes": "a model, clean and corrupted texts, a metric",
    "returns": "Circuit",
    "cost": "EAP-IG, and 22 runs of the blocks above the receiver for each of the edges that are patched exactly",
}

FEWEST_ROWS = 8  # below this the halves are too small, and all rows serve both
DIRECTIONS = ("noising", "denoising")
GRADIENTS = 20  # what EAP-IG takes, in runs of circuits

Scorer = Callable[[Model, Batch, Batch, Metric], Circuit]


@dataclass(frozen=True, eq=False)
class Explanation:
    """`circuit`: each edge's larger effect on held-out rows (`weights`, with interval, control, p, q; `exact` is that of noising).

    `direction` [edge] says which effect that is, `chosen` [edge] in what share of resamples the edge was chosen, `faithfulness`
    [circuit] holds the circuit beside random ones on the held-out rows, `notes` what limits the answer.
    """

    circuit: Circuit
    direction: tuple[str, ...]
    chosen: np.ndarray
    faithfulness: Scores
    notes: tuple[str, ...]

    def __str__(self) -> str:
        c = self.circuit
        f = {name: float(self.faithfulness[name].values[0]) for name in ("score", "low", "high", "control")}
        if not len(c):
            return "\n".join([f"no edge was found that explains {c.metric}", *(f"  note: {n}" for n in self.notes)])
        lines = [
            f"{len(c)} of {c.shape.n_edges:,} edges carry {f['score']:.1%} [{f['low']:.1%}, {f['high']:.1%}] of {c.metric} on "
            f"{c.provenance.n} rows that did not choose them; random circuits of that size carry {f['control']:.1%}"
        ]
        for i, (a, b) in enumerate(c.edge_names()):
            lines.append(
                f"  {a} -> {b}: {c.weights[i]:+.3f} [{c.low[i]:.3f}, {c.high[i]:.3f}] by {self.direction[i]} (turned "
                f"{c.control[i]:+.3f}), q = {c.q[i]:.2g}, chosen in {self.chosen[i]:.0%} of resamples"
            )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_record(self) -> dict[str, Any]:
        """Plain values: the edges with all that was measured of each, the circuit's share beside random ones, and the notes."""
        c, names = self.circuit, ("weights", "low", "high", "exact", "control", "p", "q")
        edges = [
            {"source": a, "target": b, **{n: float(getattr(c, n)[i]) for n in names},
             "direction": self.direction[i], "chosen": float(self.chosen[i])}
            for i, (a, b) in enumerate(c.edge_names())
        ]  # fmt: skip
        share = {n: float(self.faithfulness[n].values[0]) for n in ("score", "low", "high", "control", "p")}
        return {
            "metric": c.metric, "n_edges": c.shape.n_edges, "edges": edges, "faithfulness": share, "notes": list(self.notes),
            "provenance": c.provenance.to_record(),
        }  # fmt: skip

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        drawn = circuit_graph(self.circuit)._repr_mimebundle_() if len(self.circuit) else {}
        return {**drawn, "text/plain": str(self)}


def explain_behaviour(  # noqa: PLR0913 - one question, fully stated
    model: Model,
    clean: Texts,
    corrupted: Texts,
    metric: Metric,
    *,
    scores: Circuit | Scorer | None = None,
    n_exact: int = 300,
    faithful: float = 0.9,
    min_effect: float = 0.01,
    level: float = 0.05,
    n_check: int = 60,
    n_random: int = 20,
    n_resamples: int = 200,
    seed: int = 0,
    budget_bytes: int | None = None,
    tokens_at_once: int | None = None,
    progress: Progress = SILENT,
) -> Explanation:
    """Answer the question of this module's title for `metric` on pairs of texts.

    `scores` ranks the edges beforehand (a Circuit over all of them, or a function of the choosing rows; None: EAP-IG); `n_exact`
    edges are patched exactly, `n_check` of the others at random. Where clean and corrupted rows do not differ more than chance, the
    circuit is empty and `notes` say why. `progress` counts runs of circuits; its task moves between any two blocks that run, with
    no hook on the model; at most about `tokens_at_once` tokens run together (None: what the budget holds).
    Raises as `edge_run` and `EdgeRun.evaluate` do.
    """
    choices = _Choices(n_exact, faithful, min_effect, level, n_check, n_random, n_resamples, seed, tokens_at_once)
    with progress.task("reading both sides of every pair") as task:
        run = edge_run(
            model, clean, corrupted, budget_bytes=budget_bytes, tokens_at_once=tokens_at_once, between=lambda: task.advance(0)
        )  # fmt: skip
        return _explained(run, metric, scores, choices, task)


@dataclass(frozen=True)
class _Choices:
    """What is asked of the method, as in `explain_behaviour`."""

    n_exact: int
    faithful: float
    min_effect: float
    level: float
    n_check: int
    n_random: int
    n_resamples: int
    seed: int
    tokens_at_once: int | None

    def units(self, n_live: int) -> dict[str, int]:
        """About how many runs of circuits each step takes."""
        n = min(n_live, self.n_exact)
        left = min(self.n_check, n_live - n)
        ranked, patched = GRADIENTS if left else 0, RUNS_AN_EDGE * n
        return {
            "rank": ranked, "patch": patched, "sizes": min(n, SIZES), "missed": 2 * left, "beside": 1 + self.n_random
        }  # fmt: skip


def _explained(run: EdgeRun, metric: Metric, scores: Circuit | Scorer | None, of: _Choices, task: Task) -> Explanation:
    """The method on a prepared run; `task` moves by runs of circuits."""
    model = run.model
    rng = np.random.default_rng(of.seed)
    choose, decide = _halves(run.n_rows, rng)
    notes = [*ends_of(run, metric).warnings]
    live = np.flatnonzero(run.differs())[: 0 if notes else None]  # no behaviour, nothing to patch
    units = of.units(len(live))
    task.resize(sum(units.values()))

    def step(said: str, name: str) -> Part:
        task.describe(said)
        return Part(task, units[name])

    with step("ranking all edges by gradients", "rank") as part:
        numbers = live if len(live) <= of.n_exact else _top(run, metric, scores, live, choose, of, part)
    with step(f"patching {len(numbers):,} edges exactly", "patch") as part:
        found = patch_both(run, metric, numbers, choose, decide, seed=of.seed, progress=part)
    if np.array_equal(choose, decide):
        notes.append(
            f"with {run.n_rows} rows there is no half to hold out: the same rows chose the edges and measured them"
        )
    with step("looking for the shortest circuit", "sizes") as part:
        chosen, enough = shortest_circuit(run, metric, found, of.faithful, of.min_effect, part)
    if not enough:
        notes.append(
            f"no beginning of the ranking is {of.faithful:.0%} faithful on the choosing rows; the best one is shown"
        )
    kept, columns = confirmed(found, chosen, of.level, of.min_effect, of.seed)
    if len(chosen) and not len(kept):
        notes.append(f"{len(chosen)} edges were chosen on one half of the rows, and none of them held on the other")
    if len(live) > len(numbers):
        weakest = np.abs(columns["weights"]).min(initial=np.inf) if len(kept) else of.min_effect
        with step("patching some edges that were left out", "missed") as part:
            notes.append(_missed(run, metric, live, found, float(weakest), of.n_check, rng, part))
    settings = {
        "n_exact": len(numbers), "faithful": of.faithful, "min_effect": of.min_effect, "level": of.level, "n_chosen": len(chosen),
        "ranked_by": "exact effects of all edges" if len(live) == len(numbers) else "gradients, then exact effects",
    }  # fmt: skip
    provenance = Provenance(
        "explain a behaviour by edges", len(decide), of.seed, model=model.name, revision=model.revision, settings=settings,
        passes=round(run.passes), causal="patching", warnings=tuple(notes),
    )  # fmt: skip
    source, target = run.shape.edges_of(found.numbers[kept])
    weights = columns.pop("weights")
    circuit = Circuit(run.shape, source, target, weights, provenance, metric.name, **columns)  # type: ignore[arg-type]
    named = {"explanation": circuit}
    with step("running the circuit beside random ones", "beside") as part:
        beside = circuit_faithfulness(
            run, metric, named, n_random=of.n_random, rows=decide, seed=of.seed, progress=part
        )
    task.describe("drawing the rows again")
    task.advance(0)
    direction = tuple(DIRECTIONS[i] for i in stronger(found.effects(found.choose))[kept])
    often = how_often(found, len(chosen), of.n_resamples, of.seed)[kept]
    return Explanation(circuit, direction, often, beside, tuple(notes))


def _halves(n_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows that choose and rows that decide."""
    if n_rows < FEWEST_ROWS:
        return np.arange(n_rows), np.arange(n_rows)
    order = rng.permutation(n_rows)
    return np.sort(order[: n_rows // 2]), np.sort(order[n_rows // 2 :])


def _top(
    run: EdgeRun,
    metric: Metric,
    scores: Circuit | Scorer | None,
    live: np.ndarray,
    rows: np.ndarray,
    of: _Choices,
    progress: Progress,
) -> np.ndarray:
    """The `n_exact` live edges with the largest scores on the choosing rows."""
    if not isinstance(scores, Circuit):
        pick = [int(r) for r in rows]
        pairs = run.model, run.clean.select(pick), run.corrupted.select(pick), _metric_of(metric, rows)
        given = {"n_random": 0, "tokens_at_once": of.tokens_at_once, "progress": progress}
        scores = scores(*pairs) if scores else edge_attribution_ig(*pairs, **given)
    run.mask(scores)
    rank = np.zeros(run.shape.n_edges)
    rank[scores.edge_numbers] = np.nan_to_num(np.abs(scores.weights))
    return np.sort(live[np.argsort(-rank[live], kind="stable")[: of.n_exact]])


def _metric_of(metric: Metric, rows: np.ndarray) -> Metric:
    """The same metric for some of its rows, numbered from 0."""
    index = torch.as_tensor(rows, dtype=torch.long)
    tokens = None if metric.tokens is None else metric.tokens[index]
    return replace(metric, of=lambda logits, own: metric.of(logits, index.to(own.device)[own]), tokens=tokens)


def _missed(  # noqa: PLR0913 - private half of the method
    run: EdgeRun,
    metric: Metric,
    live: np.ndarray,
    found: PatchedEdges,
    weakest: float,
    n_check: int,
    rng: np.random.Generator,
    progress: Progress,
) -> str:
    """Patch some edges that the gradients put below, and say what that shows beside the `weakest` edge that was found."""
    left = np.setdiff1d(live, found.numbers)
    tried = np.sort(rng.choice(left, min(n_check, len(left)), replace=False))
    checked = patch_both(run, metric, tried, found.choose, found.decide, n_random=0, progress=progress)
    strength = np.abs(checked.effects(np.arange(run.n_rows))).max(0)
    above = int((strength >= weakest).sum())
    share = 3 / len(tried) if above == 0 else above / len(tried)  # none of n: at most 3 / n with 95 % confidence
    return (
        f"{len(left):,} edges were left out by their gradients; {len(tried)} of them, drawn at random, were patched: {above} do "
        f"{weakest:.3f} or more (the largest {strength.max(initial=0.0):.3f}), so {'at most' if above == 0 else 'about'} "
        f"{share:.1%} of those left out may"
    )
