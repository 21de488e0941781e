"""Edges patched exactly in both directions, on rows that choose a circuit and on rows that decide what is true of it."""

from dataclasses import dataclass

import numpy as np

from conceptlab.evidence import q_values, resample_counts
from conceptlab.find.circuits.exact_edges import EdgeValues, edge_values
from conceptlab.measure.circuits.ends import Ends
from conceptlab.model.edge_run import EdgeRun
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit, Provenance
from conceptlab.runs import SILENT, Part, Progress

N_RANDOM = 10  # turned copies of a change that stand beside the real one
RUNS_AN_EDGE = 2 * (1 + N_RANDOM)  # in both directions
SIZES = 64  # beginnings of the ranking that are tried
AS_STRONG = 0.95  # of the last edge's strength: below it no edge counts as equal


@dataclass(frozen=True, eq=False)
class PatchedEdges:
    """Exact values of some edges in each direction, and the rows that choose and that decide."""

    numbers: np.ndarray
    values: dict[str, EdgeValues]
    choose: np.ndarray
    decide: np.ndarray

    def effects(self, rows: np.ndarray) -> np.ndarray:
        """[direction, edge] on some rows; 0 where no share is defined."""
        return np.nan_to_num(np.stack([v.select(slice(None), rows).effects() for v in self.values.values()]))


def patch_both(  # noqa: PLR0913 - one experiment
    run: EdgeRun,
    metric: Metric,
    numbers: np.ndarray,
    choose: np.ndarray,
    decide: np.ndarray,
    *,
    n_random: int = N_RANDOM,
    seed: int = 0,
    progress: Progress = SILENT,
) -> PatchedEdges:
    """Patch the edges `numbers` in both directions on all rows; `choose` and `decide` are rows of `run`."""
    source, target = run.shape.edges_of(numbers)
    sides = {"noising": run, "denoising": run.swapped()}
    values, units = {}, len(numbers) * (1 + n_random)
    with progress.task("edges in both directions", total=2 * units) as task:
        for name, side in sides.items():
            with Part(task, units) as part:
                values[name] = edge_values(side, metric, source, target, n_random=n_random, seed=seed, progress=part)
    run.passes += sides["denoising"].passes
    return PatchedEdges(numbers, values, choose, decide)


def stronger(effects: np.ndarray) -> np.ndarray:
    """The direction [edge] with the larger effect, as a number; noising where they are about equal."""
    noising, denoising = np.abs(effects)
    return (AS_STRONG * denoising > noising).astype(int)


def shortest_circuit(
    run: EdgeRun, metric: Metric, found: PatchedEdges, faithful: float, min_effect: float, progress: Progress = SILENT
) -> tuple[np.ndarray, bool]:
    """The shortest beginning of the ranking (places in `found.numbers`) that is faithful on the choosing rows, pruned."""
    strength = np.abs(found.effects(found.choose)).max(0)
    order = np.argsort(-strength, kind="stable")
    order = order[strength[order] >= min_effect]
    ends = found.values["noising"].ends
    if ends.warnings or not len(order):
        return order[:0], True
    sizes = np.unique(np.round(np.geomspace(1, len(order), SIZES)).astype(int))
    masks = np.zeros((len(sizes), run.shape.n_edges), dtype=bool)
    for mask, n in zip(masks, sizes, strict=True):
        mask[found.numbers[order[:n]]] = True
    rows = found.choose
    share = Ends(ends.whole[rows], ends.empty[rows]).share(run.evaluate(masks, metric, progress=progress)[:, rows])
    enough = np.flatnonzero(np.abs(1 - share) <= 1 - faithful)
    size = sizes[enough[0] if len(enough) else int(np.abs(1 - share).argmin())]
    best = order[strength[order] >= AS_STRONG * strength[order[size - 1]]]
    source, target = run.shape.edges_of(found.numbers[best])
    circuit = Circuit(run.shape, source, target, strength[best], Provenance("ranking", len(rows), 0))
    return best[np.isin(found.numbers[best], circuit.pruned().edge_numbers)], bool(len(enough))


def confirmed(
    found: PatchedEdges, chosen: np.ndarray, level: float, min_effect: float, seed: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The chosen edges that hold on the deciding rows, and the columns of their circuit."""
    side = stronger(found.effects(found.choose))[chosen]
    every = [values.select(slice(None), found.decide) for values in found.values.values()]
    parts = [values.select(chosen, np.arange(len(found.decide))) for values in every]
    pick = (side, np.arange(len(chosen)))
    effect, control = (np.stack([getattr(v, name)() for v in parts])[pick] for name in ("effects", "control"))
    p = np.stack([v.p()[chosen] for v in every])[pick]  # the turned changes of all patched edges are the null
    bounds = [v.ends.interval(v.real, seed=seed) for v in parts]
    low, high = (1.0 - np.stack([b[i] for b in bounds])[pick] for i in (1, 0))
    q = q_values(p)
    keep = (q <= level) & (np.abs(effect) >= min_effect)
    columns = {
        "weights": effect, "low": low, "high": high, "exact": parts[0].effects(), "control": control, "p": p, "q": q
    }  # fmt: skip
    return chosen[keep], {name: values[keep] for name, values in columns.items()}


def how_often(found: PatchedEdges, n: int, n_resamples: int, seed: int) -> np.ndarray:
    """In what share of resamples of the choosing rows each edge is among the `n` strongest."""
    rows = found.choose
    counts = resample_counts(len(rows), None, n_resamples, seed).astype(float)
    strength = np.zeros((n_resamples, len(found.numbers)))
    for values in found.values.values():
        whole, empty = values.ends.whole[rows], values.ends.empty[rows]
        gap = counts @ (whole - empty)
        effect = counts @ (whole - values.real[:, rows]).T / np.where(gap == 0, np.inf, gap)[:, None]
        strength = np.maximum(strength, np.abs(effect))
    rank = np.argsort(np.argsort(-strength, axis=1, kind="stable"), axis=1)
    return (rank < n).mean(0)
