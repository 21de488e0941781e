"""Exact edge patching: what one edge does, by running the model with that edge alone carrying the corrupted value.

The effect of an edge is (M_clean - M_edit) / (M_clean - M_corrupted), means over rows (path patching, Wang et al. 2023, with every
node downstream of the receiver computed again; Conmy et al. 2023 for all edges). Noising takes the edge out of the clean run;
denoising puts it, clean, into the corrupted run and asks how much comes back: what an OR hides from the one it shows to the other.

Beside each effect stands that of the sender's own change turned by a random rotation: as long at every position, and as alike from
row to row, but pointing elsewhere. p asks whether the real change does more than its turned copies, in units of the copies' size
plus 1 % of the behaviour (less is of no interest), with all edges as one null (`evidence/moderated.py`); q is over the edges that
any change moves. (Rows that share words share directions, so exchanging real and random changes row by row would be too sure:
7.8 % of p below 0.05 on null worlds.)
Cost: for each edge 1 + n_random runs of the blocks from its receiver up; edges whose sender writes the same on both rows cost none.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from conceptlab.errors import InputError
from conceptlab.evidence.floor import FLOOR
from conceptlab.evidence.moderated import moderated_p, q_of_moved
from conceptlab.measure.circuits.ends import Ends, ends_of
from conceptlab.model.edge_run import EdgeRun
from conceptlab.model.edge_state import Moved
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit, Provenance, all_edges
from conceptlab.runs import SILENT, Part, Progress

CARD = {
    "name": "exact edge patching",
    "paper": "Wang et al. 2023, Interpretability in the Wild (path patching); Conmy et al. 2023, ACDC",
    "tags": ["circuits", "patching", "edges"],
    "takes": "a prepared EdgeRun (clean and corrupted rows), a metric, edges (default: all)",
    "returns": "Circuit",
    "cost": "1 + n_random runs of the blocks above the receiver for each edge",
}

Direction = Literal["noising", "denoising"]
_AT_ONCE = 512  # edges whose masks are held together


@dataclass(frozen=True, eq=False)
class EdgeValues:
    """The metric [edge, row] with each edge changed (`real`), and [draw, edge, row] with the change turned at random (`random`)."""

    ends: Ends
    real: np.ndarray
    random: np.ndarray

    def select(self, edges: np.ndarray | slice, rows: np.ndarray) -> "EdgeValues":
        """Some edges and rows."""
        ends = Ends(self.ends.whole[rows], self.ends.empty[rows])
        return EdgeValues(ends, self.real[edges][:, rows], self.random[:, edges][:, :, rows])

    def effects(self) -> np.ndarray:
        """Normalised effect [edge]."""
        return 1.0 - self.ends.share(self.real)

    def control(self) -> np.ndarray:
        """The root mean square over draws of the turned change's normalised effect [edge]; NaN without draws."""
        if not len(self.random):
            return np.full(len(self.real), np.nan)
        return np.sqrt(((1.0 - self.ends.share(self.random)) ** 2).mean(0))

    def p(self) -> np.ndarray:
        """p [edge] that the real change does as much as turned ones; 1 where there is no behaviour, NaN without draws."""
        if self.ends.warnings or not len(self.random):
            return np.full(len(self.real), 1.0 if self.ends.warnings else np.nan)
        real, random = (self.ends.whole.mean() - values.mean(-1) for values in (self.real, self.random))
        return moderated_p(real, random, FLOOR * abs(self.ends.gap))


def edge_values(  # noqa: PLR0913 - one experiment
    run: EdgeRun,
    metric: Metric,
    source: np.ndarray,
    target: np.ndarray,
    *,
    n_random: int = 10,
    seed: int = 0,
    progress: Progress = SILENT,
) -> EdgeValues:
    """Change edges `source` -> `target` [edge] one by one, each really and `n_random` times turned."""
    ends, numbers = ends_of(run, metric), run.shape.edge_numbers(source, target)
    live = np.flatnonzero(run.differs()[numbers])
    live = live[np.argsort(target[live], kind="stable")]
    real = np.repeat(ends.whole[None], len(numbers), 0)
    random = np.repeat(real[None], n_random, 0)
    with progress.task("edges", total=len(live) * (n_random + 1)) as task:
        for start in range(0, len(live), _AT_ONCE):
            few = live[start : start + _AT_ONCE]
            masks = np.ones((len(few), run.shape.n_edges), dtype=bool)
            for draw in range(n_random):
                moved = Moved(source[few], target[few], np.full(len(few), draw), seed)
                with Part(task, len(few)) as part:
                    random[draw, few] = run.evaluate(masks, metric, moved=moved, progress=part)
            masks[np.arange(len(few)), numbers[few]] = False
            with Part(task, len(few)) as part:
                real[few] = run.evaluate(masks, metric, progress=part)
    return EdgeValues(ends, real, random)


def exact_edges(  # noqa: PLR0913 - one experiment, fully stated
    run: EdgeRun,
    metric: Metric,
    edges: Circuit | None = None,
    *,
    direction: Direction = "noising",
    n_random: int = 10,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Circuit:
    """Exact normalised effect of every edge of `edges` (None: of the whole graph), as `weights` and as `exact`.

    `low`, `high` are its 95 % interval over rows, `control` the size of the turned changes' effects (root mean square),
    p and q as in this module's text (all NaN with `n_random=0`).
    Where clean and corrupted rows do not differ more than chance p is 1, and where they score alike effects are NaN
    (`provenance.warnings` says so). Raises InputError for an unknown direction and as `EdgeRun.evaluate` does.
    """
    if direction not in ("noising", "denoising"):
        raise InputError(f'direction={direction!r} is not known; use "noising" or "denoising"')
    source, target = all_edges(run.shape) if edges is None else (edges.source, edges.target)
    if edges is not None:
        run.mask(edges)
    side = run if direction == "noising" else run.swapped()
    before = side.passes
    found = edge_values(side, metric, source, target, n_random=n_random, seed=seed, progress=progress)
    effect, p = found.effects(), found.p()
    high, low = (1.0 - bound for bound in found.ends.interval(found.real, seed=seed))
    settings = {"direction": direction, "ablation": run.ablation, "n_edges": len(source), "n_random": n_random}
    provenance = Provenance(
        "exact edge patching", run.n_rows, seed, model=run.model.name, revision=run.model.revision, settings=settings,
        passes=round(side.passes - before), causal="patching", warnings=found.ends.warnings,
    )  # fmt: skip
    return Circuit(
        run.shape, source, target, effect, provenance, metric.name, low=low, high=high, exact=effect,
        control=found.control(), p=p, q=q_of_moved(p),
    )  # fmt: skip
