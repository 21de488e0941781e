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
from conceptlab.numerics.linear_fit import rotate

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
    features: Tensor,
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
    c = default_c(*features.shape[::2]) if c is None else c
    n_layers = features.shape[1]
    names = layer_names or [str(i) for i in range(n_layers)]
    sweep = _sweep(features, problem, c, tol, on_layer)
    weights = np.bincount(problem.folds) / len(problem.folds)
    chosen = sweep.inner.argmax(0)  # [fold, draw]
    nested = (np.take_along_axis(sweep.outer, chosen[None], 0)[0] * weights[:, None]).sum(0)
    by_layer = (sweep.outer * weights[None, :, None]).sum(1)  # [layer, draw]
    curve = _curve_table(sweep, problem, by_layer, groups, names, seed)
    points = converging_points(by_layer[:, 0], by_layer[:, 1:], problem.metric)
    rows = np.arange(len(problem.folds))
    picked = torch.stack(sweep.held)[torch.from_numpy(chosen[problem.folds, 0]), torch.from_numpy(rows)]
    return LayerProbe(
        curve=curve,
        metric=problem.metric,
        score=float(nested[0]),
        interval=score_interval(problem, picked, groups, seed),
        null=nested[1:],
        p=float(permutation_p(nested[0], nested[1:])) if len(nested) > 1 else float("nan"),
        best_layer=int(by_layer[:, 0].argmax()),
        chosen=chosen[:, 0],
        jump=points[0],
        settled=points[1],
    )


def _sweep(features: Tensor, problem: Problem, c: float, tol: float, on_layer: Callable[[], None]) -> _Sweep:
    n_layers, k, draws = features.shape[1], problem.n_folds, len(problem.labels)
    outer, inner = np.zeros((n_layers, k, draws)), np.zeros((n_layers, k, draws))
    held = []
    for layer in range(n_layers):
        x = rotate(features[:, layer])
        real = torch.zeros(len(problem.folds), problem.n_classes)
        for out in problem.exclusions:
            values = decisions(x, problem, out, tol=tol, c=c)
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
    bounds = np.array([score_interval(problem, held, groups, seed) for held in sweep.held])
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


def score_interval(problem: Problem, values: Tensor, groups: np.ndarray | None, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the held-out score of decision values [row, class] on the real labels."""
    rows = np.arange(len(values))
    if problem.metric == "accuracy":
        low, high = bootstrap_mean(correct(_real(problem), rows, values[:, None])[:, 0].numpy(), groups, seed=seed)
        return float(low), float(high)
    counts = resample_counts(len(rows), groups, 200, seed)
    draws = [np.repeat(rows, c) for c in counts]
    found = [float(score(_real(problem), d, values[torch.from_numpy(d)][:, None])[0]) for d in draws]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _real(problem: Problem) -> Problem:
    return Problem(problem.labels[:1], problem.folds, problem.kind, problem.metric)
