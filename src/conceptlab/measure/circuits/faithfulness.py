"""Faithfulness of circuits: how much of the behaviour is left when every edge outside carries the corrupted value, by circuit size.

f(C) = (M(C) - M(nothing)) / (M(whole) - M(nothing)), means over rows: 0 with no edge, 1 with all. It may be above 1 or below 0,
since edges can work against the task. A ranking of edges gives a curve over sizes k (shares of all edges), and two areas
(Mueller et al. 2025, MIB): CPR = integral of f over k, of the edges with the largest positive scores (how well edges that help
are found), and CMD = integral of |1 - f| over k, of the edges with the largest scores of either sign (how closely the model is
met; 0 is best).

Every value stands beside random circuits with as many edges into each layer. Departure: areas begin at k = 0, where f is 0.
Cost: (1 + n_random) circuit runs a size and order; circuits that are the same run once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.evidence.random_circuits import random_circuits
from conceptlab.measure.circuits.ends import Ends, ends_of
from conceptlab.model.edge_run import EdgeRun
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit, Provenance, Scores
from conceptlab.results.graph import on_path
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "circuit faithfulness",
    "paper": "Wang et al. 2023 (faithfulness); Mueller et al. 2025, MIB (CPR, CMD)",
    "tags": ["circuits", "evaluation"],
    "takes": "a prepared EdgeRun, a metric, circuits or a ranking of edges",
    "returns": "Scores",
    "cost": "(1 + n_random) circuit runs for each circuit or size",
}

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
ORDERS = ("magnitude", "signed")


@dataclass(frozen=True, eq=False)
class Beside:
    """`share` [circuit] with interval `low` to `high`, and `random` [circuit, draw] of random circuits of equal size."""

    ends: Ends
    values: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray
    random: np.ndarray

    @property
    def p(self) -> np.ndarray:
        """p [circuit] that a random circuit of this size keeps as much; NaN without draws."""
        if not self.random.shape[1]:
            return np.full(len(self.share), np.nan)
        return np.where(np.isnan(self.share), np.nan, permutation_p(self.share, self.random.T))


def beside_random(  # noqa: PLR0913 - one experiment
    run: EdgeRun,
    metric: Metric,
    circuits: Sequence[Circuit],
    *,
    n_random: int = 10,
    rows: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Beside:
    """Faithfulness of circuits and of `n_random` random ones of equal size by layer for each, on some rows (None: all)."""
    masks = [run.mask(*circuits)]
    for number, circuit in enumerate(circuits):
        drawn = random_circuits(circuit, n_random, seed=seed + number) if len(circuit) else [circuit] * n_random
        masks.append(run.mask(*drawn))
    ends, values = ends_of(run, metric), run.evaluate(np.concatenate(masks), metric, progress=progress)
    if rows is not None:
        ends, values = Ends(ends.whole[rows], ends.empty[rows]), values[:, rows]
    own, drawn = values[: len(circuits)], values[len(circuits) :].reshape(len(circuits), n_random, -1)
    low, high = ends.interval(own, seed=seed)
    return Beside(ends, own, ends.share(own), low, high, ends.share(drawn))


def circuit_faithfulness(  # noqa: PLR0913 - one experiment, fully stated
    run: EdgeRun,
    metric: Metric,
    circuits: Mapping[str, Circuit],
    *,
    n_random: int = 10,
    rows: np.ndarray | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """`score` [circuit] is f with its 95 % interval, `control` the mean f of random circuits of equal size, on some `rows`
    (None: all).

    `control_low`, `control_high` are the 2.5 and 97.5 % points of the draws, p the share of draws at least as faithful, `raw`
    |M(whole) - M(C)| and `n_edges` the size. Raises InputError as `EdgeRun.evaluate` does.
    """
    if not circuits:
        raise InputError("there is no circuit to evaluate")
    given = {"n_random": n_random, "rows": rows, "seed": seed, "progress": progress}
    found = beside_random(run, metric, list(circuits.values()), **given)  # type: ignore[arg-type]
    sizes = np.array([len(circuit) for circuit in circuits.values()])
    data = xr.Dataset(_columns(found, ("circuit",), sizes), coords={"circuit": list(circuits)})
    return Scores(data, _provenance(run, found, n_random, seed, metric))


def faithfulness_curve(  # noqa: PLR0913 - one experiment, fully stated
    run: EdgeRun,
    metric: Metric,
    ranked: Circuit,
    *,
    fractions: Sequence[float] = FRACTIONS,
    n_random: int = 10,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """`score` [order, size] is f of the edges of `ranked` with the largest |weight| ("magnitude") or the largest positive weight
    ("signed"), `size` the share of all edges; other columns as in `circuit_faithfulness`.

    `n_connected` counts edges that lie on a way from embed to logits. Attributes: `cpr` (of "signed") and `cmd` (of
    "magnitude") with `_random` (mean over draws) and `_random_best`. A ranking that holds only some edges is held at its own
    size beyond it, which the warnings say. Raises InputError for fractions outside (0, 1].
    """
    sizes = np.array(sorted(set(fractions)), dtype=float)
    if not len(sizes) or sizes[0] <= 0 or sizes[-1] > 1:
        raise InputError(f"fractions must lie in (0, 1]; got {list(fractions)}")
    counts = np.round(sizes * run.shape.n_edges).astype(int)
    circuits = [_first(ranked, int(n), order) for order in ORDERS for n in counts]
    found = beside_random(run, metric, circuits, n_random=n_random, seed=seed, progress=progress)
    dims, grid = ("order", "size"), (len(ORDERS), len(sizes))
    columns = _columns(found, dims, np.array([len(c) for c in circuits]), grid)
    connected = [int(on_path(c.shape, c.source, c.target).sum()) for c in circuits]
    columns["n_connected"] = (dims, np.array(connected).reshape(grid))
    data = xr.Dataset(columns, coords={"order": list(ORDERS), "size": sizes}, attrs=_areas(found, sizes))
    short = () if len(ranked) >= counts[-1] else (f"the ranking holds {len(ranked):,} edges; larger sizes stay there",)
    return Scores(data, _provenance(run, found, n_random, seed, metric, short))


def _first(ranked: Circuit, n: int, order: str) -> Circuit:
    """The best `n` edges; all edges of the graph are themselves in either order."""
    if n == ranked.shape.n_edges == len(ranked):
        return ranked
    if order == "magnitude":
        return ranked.top(n)
    best = ranked.top(n, by="signed")
    return best.select(best.weights > 0)


def _areas(found: Beside, sizes: np.ndarray) -> dict[str, float]:
    """CPR of the signed order and CMD of the other, ours and the draws'."""
    n = len(sizes)
    k = np.concatenate([[0.0], sizes])
    areas = {}
    for name, part, integrand in (("cpr", slice(n, None), lambda f: f), ("cmd", slice(0, n), lambda f: np.abs(1 - f))):
        ours = np.trapezoid(integrand(np.concatenate([[0.0], found.share[part]])), k)
        draws = np.trapezoid(integrand(np.pad(found.random[part], ((1, 0), (0, 0)))), k, axis=0)
        areas[name] = float(ours)
        if draws.size:
            areas |= {f"{name}_random": float(draws.mean()), f"{name}_random_best": float(_best(name, draws))}
    return areas


def _best(name: str, draws: np.ndarray) -> float:
    return draws.max() if name == "cpr" else draws.min()


def _columns(
    found: Beside, dims: tuple[str, ...], sizes: np.ndarray, shape: tuple[int, ...] = (-1,)
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    none = np.full(len(found.share), np.nan)
    drawn = found.random.shape[1] > 0
    low, high = np.quantile(found.random, [0.025, 0.975], axis=1) if drawn else (none, none)
    columns = {
        "score": found.share, "low": found.low, "high": found.high,
        "control": found.random.mean(1) if drawn else none, "control_low": low, "control_high": high, "p": found.p,
        "raw": np.abs(found.ends.whole.mean() - found.values.mean(1)), "n_edges": sizes,
    }  # fmt: skip
    return {name: (dims, values.reshape(shape)) for name, values in columns.items()}


def _provenance(
    run: EdgeRun, found: Beside, n_random: int, seed: int, metric: Metric, more: tuple[str, ...] = ()
) -> Provenance:
    settings = {"metric": metric.name, "ablation": run.ablation, "n_random": n_random, "n_edges": run.shape.n_edges}
    return Provenance(
        "circuit faithfulness", len(found.ends.whole), seed, model=run.model.name, revision=run.model.revision, settings=settings,
        passes=round(run.passes), causal="patching", warnings=(*found.ends.warnings, *more),
    )  # fmt: skip
