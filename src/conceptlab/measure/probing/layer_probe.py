"""At which layer can a concept be read? Depth curve and nested score, with the permutation null of the same procedure.

Per layer one L2-logistic probe a training set (C by `default_c`, standardised features, to convergence; ridge for graded labels).
The curve is the held-out score by layer. The nested score chooses the layer inside each outer fold by an inner cross-validation
on the other folds, so the choice never sees the rows it is scored on; the same procedure, choice included, runs on shuffled
labels, all shuffles at once as columns of the same fit. Training sets that leave out two folds serve both of them.
Cost: no model passes; (K + K(K-1)/2) x layers x (1 + permutations) fits in batches of columns.
Source: Jin et al. 2024, Exploring Concept Depth (protocol), with grouped folds, nesting and nulls added.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.evidence import bootstrap_mean, permutation_p, resample_counts
from conceptlab.measure.probing.columns import Metric, Problem, correct, decisions, default_c, score
from conceptlab.measure.probing.curve import converging_points
from conceptlab.numerics.linear_fit import Layers, count_layers, rotated_layers
from conceptlab.numerics.ranks import weighted_auc, weighted_pearson

CARD = {
    "name": "layer-wise probe",
    "paper": "Jin et al. 2024, Exploring Concept Depth",
    "tags": ["probing", "depth"],
    "takes": "features [row, layer, d], labels, folds",
    "returns": "Scores",
    "cost": "no model passes beyond the capture",
}


@dataclass(frozen=True)
class LayerProbe:
    """`curve` is a table over `layer` (score low high control control_low control_high); `score` the nested score with its
    `interval`, `null` [permutation] the nested scores of shuffled labels, `chosen` [fold] the layers that the folds chose."""

    curve: xr.Dataset
    metric: Metric
    score: float
    interval: tuple[float, float]
    null: np.ndarray
    p: float
    best_layer: int
    chosen: np.ndarray
    jump: float | None
    settled: float | None

    @property
    def control(self) -> float:
        """Mean of the null of the whole procedure."""
        return float(self.null.mean()) if len(self.null) else float("nan")


@dataclass
class _Sweep:
    """Scores per layer: `outer` [layer, fold, draw] on each left-out fold, `inner` [layer, fold, draw] on the others of it."""

    outer: np.ndarray
    inner: np.ndarray
    held: list[
        Tensor
    ]  # per layer: decision values [row, class] of the real labels, each row by the probe without its fold


def probe_layers(  # noqa: PLR0913 - the protocol, fully stated
    features: Layers,
    problem: Problem,
    groups: np.ndarray | None = None,
    *,
    layer_names: list[str] | None = None,
    c: float | None = None,
    tol: float = 1e-2,
    seed: int = 0,
    on_layer: Callable[[], None] = lambda: None,
) -> LayerProbe:
    """Probe `features` [row, layer, d] for `problem` (draw 0 real, the others shuffled; folds given).

    Intervals are 95 % bootstraps over rows, or over `groups`. `on_layer` is called after each layer.
    """
    names = layer_names or [str(i) for i in range(count_layers(features))]
    sweep = _sweep(
        features, problem, problem.exclusions if len(names) > 1 else _single(problem), c=c, tol=tol, on_layer=on_layer
    )
    weights = np.bincount(problem.folds) / len(problem.folds)
    chosen = sweep.inner.argmax(0)  # [fold, draw]
    nested = (np.take_along_axis(sweep.outer, chosen[None], 0)[0] * weights[:, None]).sum(0)
    by_layer = (sweep.outer * weights[None, :, None]).sum(1)  # [layer, draw]
    curve = _curve_table(sweep, problem, by_layer, groups, names, seed)
    points = converging_points(by_layer[:, 0], by_layer[:, 1:], problem.metric)
    rows = np.arange(len(problem.folds))
    picked = torch.stack(sweep.held)[torch.from_numpy(chosen[problem.folds, 0]), torch.from_numpy(rows)]
    low, high = score_intervals(problem, picked[None], groups, seed)[0]
    return LayerProbe(
        curve=curve,
        metric=problem.metric,
        score=float(nested[0]),
        interval=(float(low), float(high)),
        null=nested[1:],
        p=float(permutation_p(nested[0], nested[1:])) if len(nested) > 1 else float("nan"),
        best_layer=int(by_layer[:, 0].argmax()),
        chosen=chosen[:, 0],
        jump=points[0],
        settled=points[1],
    )


def held_out_curve(features: Layers, problem: Problem, *, c: float | None = None, tol: float = 1e-2) -> np.ndarray:
    """Held-out score [layer] of the real labels alone: the curve of `probe_layers`, without nesting, null or intervals."""
    return held_out_scores(features, _real(problem), c=c, tol=tol)[0][:, 0]


def held_out_scores(
    features: Layers, problem: Problem, *, c: float | None = None, tol: float = 1e-2
) -> tuple[np.ndarray, Tensor]:
    """Held-out scores [layer, draw] of all labellings, and decision values [layer, row, class] of the real one; no nesting."""
    sweep = _sweep(features, problem, _single(problem), c=c, tol=tol, on_layer=lambda: None)
    weights = np.bincount(problem.folds) / len(problem.folds)
    return (sweep.outer * weights[None, :, None]).sum(1), torch.stack(sweep.held)


def _single(problem: Problem) -> list[tuple[int, ...]]:
    """One fold left out at a time: enough where no layer is chosen, as of one layer there is only one."""
    return [out for out in problem.exclusions if len(out) == 1]


def _sweep(
    features: Layers,
    problem: Problem,
    exclusions: list[tuple[int, ...]],
    *,
    c: float | None,
    tol: float,
    on_layer: Callable[[], None],
) -> _Sweep:
    n_layers, k, draws = count_layers(features), problem.n_folds, len(problem.labels)
    outer, inner = np.zeros((n_layers, k, draws)), np.zeros((n_layers, k, draws))
    held = []
    for layer, x in enumerate(rotated_layers(features)):
        real = torch.zeros(len(problem.folds), problem.n_classes)
        strength = default_c(x.n, x.d) if c is None else c
        for out in exclusions:
            values = decisions(x, problem, out, tol=tol, c=strength)
            rows = np.flatnonzero(np.isin(problem.folds, out))
            for fold in out:
                mine = problem.folds[rows] == fold
                found = score(problem, rows[mine], values[torch.from_numpy(mine)]).double().numpy()
                if len(out) == 1:
                    outer[layer, fold] = found
                    real[rows] = values[:, 0]
                else:  # the probe without {a, b}, scored on a, helps to choose the layer for the outer fold b
                    other = out[0] if fold == out[1] else out[1]
                    inner[layer, other] += found / (k - 1)
        held.append(real)
        on_layer()
    return _Sweep(outer, inner, held)


def _curve_table(
    sweep: _Sweep, problem: Problem, by_layer: np.ndarray, groups: np.ndarray | None, names: list[str], seed: int
) -> xr.Dataset:
    bounds = score_intervals(problem, torch.stack(sweep.held), groups, seed)
    null = by_layer[:, 1:] if by_layer.shape[1] > 1 else np.full((len(names), 1), np.nan)
    columns = {
        "score": by_layer[:, 0],
        "low": bounds[:, 0],
        "high": bounds[:, 1],
        "control": null.mean(1),
        "control_low": np.quantile(null, 0.025, axis=1),
        "control_high": np.quantile(null, 0.95, axis=1),
    }
    return xr.Dataset({k: ("layer", v) for k, v in columns.items()}, coords={"layer": names})


def score_intervals(problem: Problem, values: Tensor, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """95 % bootstrap intervals [set, 2] of the held-out scores of decision values [set, row, class] on the real labels.

    AUC and r are taken inside each fold, as the score is: the folds' probes need not agree on where 0 lies. Where every row
    is right (or wrong) no resample can say otherwise; then the exact binomial bound for that many rows or groups is given.
    """
    n = values.shape[1]
    if problem.metric == "accuracy":
        right = np.stack([correct(_real(problem), np.arange(n), v[:, None])[:, 0].numpy() for v in values], 1)
        low, high = bootstrap_mean(right, groups, seed=seed)
        bound = 0.025 ** (1 / (n if groups is None else len(np.unique(groups))))
        low = np.where(right.all(0), np.minimum(low, bound), low)
        return np.stack([low, np.where(right.any(0), high, np.maximum(high, 1 - bound))], 1)
    counts = resample_counts(n, groups, 500, seed).astype(float)
    found = weighted_pearson if problem.metric == "r" else weighted_auc
    real, totals = problem.labels[0].astype(float), np.zeros((len(values), len(counts)))
    for fold in range(problem.n_folds):
        rows = problem.folds == fold
        drawn, shown = counts[:, rows], values[:, torch.from_numpy(rows), 0].double().numpy()
        for total, one in zip(totals, shown, strict=True):
            total += found(one, real[rows], drawn) * drawn.sum(1)
    return np.quantile(totals / counts.sum(1), [0.025, 0.975], axis=1).T


def _real(problem: Problem) -> Problem:
    return Problem(problem.labels[:1], problem.folds, problem.kind, problem.metric)
