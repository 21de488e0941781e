"""Integrated gradients on MLP neurons: what each neuron at the last position adds to a metric, on a way from nothing to its value.

Source: Dai et al. 2022, Knowledge Neurons; Sundararajan et al. 2017. All neurons of one layer are scaled together from 0 to
their value a; a neuron's attribution is a x the mean over steps of the gradient of the metric at the scaled values, in units of
the metric. Over a layer attributions add up to M(a) - M(0) for many steps: `gap` says by what share of it they miss (above 5 %
more steps are needed). Midpoints of equal steps; rule="left" begins at 0, as the published code does.

Control: the same gradients with the layer's activations turned by a random rotation, all rows alike, of which `control` is the
root mean square; p asks that a neuron's attribution be larger than those (beyond 0.01 of the metric's unit) and agree in sign over
rows; q is over all neurons that anything moves. `n_exact` neurons, the largest, are also set to 0 one by one (`exact`, what the
metric loses), beside as many others of their layers (`calibration` holds the mean of either).

Departure: steps of a row run as one batch. Trap: a probability near 1 has no gradient; use its log or a logit.
Cost: where last tokens can be run alone (`model.scaled_neurons`), a forward and about steps x layers / (2 x pos) forwards and
backwards a row; else for every layer `steps` + 1 forwards and `steps` backwards. `n_exact` x 2 ablations by `sweep`.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence.agreement import agreement
from conceptlab.evidence.moderated import q_of_moved
from conceptlab.evidence.row_moments import RowMoments
from conceptlab.model import Batch, Model
from conceptlab.model.gradients import Place, gradients, in_groups
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.scaled_neurons import can_scale, scaled_runs
from conceptlab.model.sweep import sweep
from conceptlab.numerics.rotations import random_signs, rotated
from conceptlab.results import Edit, Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "integrated gradients on neurons",
    "paper": "Dai et al. 2022, Knowledge Neurons; Sundararajan et al. 2017",
    "tags": ["attribution", "neurons"],
    "takes": "a model, texts, a metric at their last position",
    "returns": "Scores",
    "cost": "steps + 1 forwards and steps backwards for every layer",
}
Rule = Literal["midpoint", "left"]
SITE, COMPLETE, NOTHING = "mlp_post", 0.05, 1e-4


def integrated_gradients(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    metric: Metric,
    *,
    layers: Sequence[int] | None = None,
    steps: int = 20,
    rule: Rule = "midpoint",
    n_exact: int = 10,
    n_random: int = 50,
    budget_bytes: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Attribution [layer, neuron] of `metric` (mean over rows, its units), with `low`, `high` (95 %), `control`, `p`, `q`, `exact`
    (NaN where it was not measured), and by layer `change` (M(a) - M(0)) and `gap` (NaN where the layer changes nothing).

    Raises InputError for no steps, an unknown rule, a metric of another position than the last, and as `gradients` does; SiteError
    where the model has no neurons.
    """
    if steps < 1 or rule not in ("midpoint", "left"):
        raise InputError(f'steps={steps}, rule={rule!r}: use at least 1 step and "midpoint" or "left"')
    if metric.position != "last" or metric.site is not None:
        raise InputError(f"{metric.name} must read the logits at the last position, where the neurons are scaled")
    batch, before = model.encode(texts), model.forwards
    chosen = tuple(model.layers_with(SITE) if layers is None else layers)
    width = int(model.tap(SITE, chosen[0] if chosen else 0).width or 0)
    shares = [0.0, *((k + (0.5 if rule == "midpoint" else 0.0)) / steps for k in range(steps)), 1.0]
    found = [RowMoments(width, n_random) for _ in chosen]
    change = np.zeros((len(chosen), len(batch)))
    rng = np.random.default_rng(seed)
    for axis, rows, values, grad, ends in each_layer(
        model, batch, metric, chosen, shares, budget_bytes=budget_bytes, progress=progress
    ):
        change[axis, rows] = ends
        found[axis].add_rows(np.ones(len(rows)))
        dealt = [(_turned(values, seed, draw) * grad).sum(0) for draw in range(n_random)]
        random = np.stack(dealt) if dealt else np.zeros((0, width))
        found[axis].add(slice(None), values * grad, np.ones(len(rows)), random)
    columns = {name: np.stack(parts) for name, parts in _columns(found).items()}
    columns["q"] = q_of_moved(columns["p"].reshape(-1)).reshape(columns["p"].shape)
    exact, record = _exact(model, batch, metric, chosen, columns["score"], n_exact, rng)
    total, missed = change.mean(1), np.abs(columns["score"].sum(1) - change.mean(1))
    gap = np.where(np.abs(total) < NOTHING, np.nan, missed / np.maximum(np.abs(total), NOTHING))
    far = [layer for layer, g in zip(chosen, gap, strict=True) if g > COMPLETE]
    warnings = [f"attributions of layer {layer} miss more than 5 % of its change; use more steps" for layer in far]
    data = xr.Dataset(
        {name: (("layer", "neuron"), values) for name, values in {**columns, "exact": exact}.items()}
        | {"change": ("layer", total), "gap": ("layer", gap)},
        coords={"layer": list(chosen), "neuron": np.arange(width)},
    )
    settings = {"steps": steps, "rule": rule, "metric": metric.name, "baseline": "zero", "calibration": record}
    provenance = Provenance(
        "integrated gradients", len(batch), seed, model=model.name, revision=model.revision, settings=settings,
        passes=round(model.forwards - before), causal="none", warnings=tuple(warnings),
    )  # fmt: skip
    return Scores(data, provenance)


def row_attributions(
    model: Model, texts: Texts, metric: Metric, *, steps: int = 20, budget_bytes: int | None = None
) -> np.ndarray:
    """Attributions [row, layer, neuron] of every row by itself, midpoint rule, over the layers that have neurons."""
    batch, layers = model.encode(texts), tuple(model.layers_with(SITE))
    width = int(model.tap(SITE, layers[0] if layers else 0).width or 0)
    shares = [0.0, *((k + 0.5) / steps for k in range(steps)), 1.0]
    found = np.zeros((len(batch), len(layers), width))
    for axis, rows, values, grad, _ in each_layer(model, batch, metric, layers, shares, budget_bytes=budget_bytes):
        found[rows, axis] = values * grad
    return found


Way = tuple[int, list[int], np.ndarray, np.ndarray, np.ndarray]


def each_layer(  # noqa: PLR0913 - what runs, and how much at once
    model: Model,
    batch: Batch,
    metric: Metric,
    layers: Sequence[int],
    shares: list[float],
    *,
    budget_bytes: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[Way]:
    """Number of the layer, rows, activations and mean gradient [row, neuron], and M(a) - M(0) [row], of all layers and rows; last
    tokens alone where that is exact on this model."""
    fast = can_scale(model, metric)
    ends_only = 1 + len(shares) * len(layers) // max(1, min(batch.lengths, default=1))
    groups = in_groups(model, batch, budget_bytes, per_token=0, copies=ends_only if fast else len(shares))
    with progress.task("layers", total=len(layers) * len(groups)) as task:
        for rows in groups:
            some = batch.select(rows)
            if fast:
                ways = _together(model, some, metric, layers, shares, rows)
            else:
                ways = (_along(model, some, metric, layer, shares, rows) for layer in layers)
            for axis, way in enumerate(ways):
                yield axis, rows, *way
                task.advance()


def _turned(values: np.ndarray, seed: int, draw: int) -> np.ndarray:
    """Activations [row, neuron] of the same length in a random direction."""
    signs = random_signs((), values.shape[1], seed * 1_000_003 + draw)
    return rotated(torch.from_numpy(values), signs).double().numpy()


def _together(  # noqa: PLR0913 - as `_along`
    model: Model, batch: Batch, metric: Metric, layers: Sequence[int], shares: list[float], rows: list[int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same of every layer, last tokens alone, in one forward and backward."""
    run = scaled_runs(model, batch, metric, layers, shares, rows=rows)
    for values, grads, value in zip(run.values, run.grads, run.metric, strict=True):
        mean = grads[1:-1].double().mean(0)
        yield values.double().cpu().numpy(), mean.cpu().numpy(), (value[-1] - value[0]).cpu().numpy()


def _along(
    model: Model, batch: Batch, metric: Metric, layer: int, shares: list[float], rows: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of some rows of one length: activations and mean gradient [row, neuron] at the last position, and M(a) - M(0) [row]."""
    place: Place = (SITE, layer)
    scale = torch.tensor(shares).repeat_interleave(len(batch))

    def scaled(view: Tensor) -> Tensor:
        out = view.clone()
        out[:, -1] = view[:, -1] * scale.to(view)[:, None]
        return out

    many = Batch(batch.ids * len(shares))
    run = gradients(model, many, metric, [place], rows=rows * len(shares), given={place: scaled})
    grad = run.grads[place][:, -1].double().unflatten(0, (len(shares), -1))[1:-1].mean(0)
    values = run.values[place][:, -1].double().unflatten(0, (len(shares), -1))[-1]
    value = run.metric.unflatten(0, (len(shares), -1))
    return values.cpu().numpy(), grad.cpu().numpy(), (value[-1] - value[0]).cpu().numpy()


def _columns(found: list[RowMoments]) -> dict[str, list[np.ndarray]]:
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("score", "low", "high", "control", "p")}
    for moments in found:
        low, high = moments.interval()
        values = (moments.share(), low, high, moments.control(), moments.p())
        for name, column in zip(columns, values, strict=True):
            columns[name].append(column)
    return columns


def _exact(  # noqa: PLR0913 - private half of the method
    model: Model,
    batch: Batch,
    metric: Metric,
    layers: tuple[int, ...],
    score: np.ndarray,
    n_exact: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, object]]:
    """What the metric loses when the largest neurons are 0 at the last position, and others of their layers beside."""
    exact = np.full(score.shape, np.nan)
    if not n_exact:
        return exact, {}
    layer, neuron = np.unravel_index(np.argsort(-np.abs(score).reshape(-1), kind="stable")[:n_exact], score.shape)
    other = np.array([rng.choice(np.setdiff1d(np.arange(score.shape[1]), neuron[layer == at])) for at in layer])
    cells = list(zip(np.tile(layer, 2).tolist(), [*neuron.tolist(), *other.tolist()], strict=True))
    edits = [Edit(Site(SITE, layers[at], (n,)), "zero", positions="last") for at, n in cells]
    lost = -sweep(model, batch, edits, metric).change.mean(1)
    at, n = (np.array(column) for column in zip(*cells, strict=True))
    exact[at, n] = lost
    top, beside = lost[: len(layer)], lost[len(layer) :]
    record: dict[str, object] = {**agreement(score[at, n], lost).to_record()}
    return exact, record | {"lost": float(np.abs(top).mean()), "lost_beside": float(np.abs(beside).mean())}
