"""How deep do concepts lie, and does noise in the text or rounding of the weights push them deeper?

Every concept is probed at every layer (see `layer_probe`) as the model is, with three equal letters glued to the front of each
text, and with weights that went through bf16, int8 or int4 and back; all conditions share rows, folds and shuffled labels. This is
repeated with other folds, other noise and other shuffles (seeds), and the points of each curve are compared seed by seed: the
jump and the settled point of the paper, and the depth, the first layer that beats the shuffled labels and is half way to the peak
of the model as it is: the same height in all conditions, since a curve that noise flattens would reach half of its own peak early.
Source: Jin et al. 2024, Exploring Concept Depth. Departures: grouped five-fold instead of one 60/40 split, standardised features,
the stream instead of the normed MLP input, rounding on any device instead of a library for 8 bits. Depth is ours: a concept that
the embedding tells already has no jump, and one that rises in two steps settles late.
Control: the same procedure on shuffled labels, and a control task (Hewitt and Liang 2019).
Cost: (3 roundings + 1 + seeds) forwards of the texts; seeds x conditions x layers x 5 fits of (1 + shuffles) columns a concept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from torch import Tensor

from conceptlab.data import Concept
from conceptlab.errors import DataError, InputError
from conceptlab.measure.probing.columns import Metric, choose_metric
from conceptlab.measure.probing.control_task import control_task
from conceptlab.measure.probing.curve import converging_points
from conceptlab.measure.probing.layer_probe import held_out_scores, score_intervals
from conceptlab.measure.probing.streams import locate, make_problem, read_noised, stream_at
from conceptlab.model import Model
from conceptlab.model.quantise import quantised
from conceptlab.results import Provenance, Scores
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "concept depth",
    "paper": "Jin et al. 2024, Exploring Concept Depth",
    "tags": ["probing", "depth", "quantisation", "noise"],
    "takes": "a model, labelled concepts",
    "returns": "Scores",
    "cost": "(4 + seeds) forwards of the texts, and probe fits",
}
Condition = Literal["as is", "noised", "bf16", "int8", "int4"]
CONDITIONS: tuple[Condition, ...] = ("as is", "noised", "bf16", "int8", "int4")
POINTS = ("depth", "jump", "settled", "peak")


@dataclass(frozen=True)
class _Curves:
    """Of one concept: `score`, `low`, `high` [seed, condition, layer], `null` [seed, condition, layer, draw], `points` by name
    [seed, condition] in layers, and the control task's `selectivity` [layer] as the model is."""

    score: np.ndarray
    low: np.ndarray
    high: np.ndarray
    null: np.ndarray
    points: Mapping[str, np.ndarray]
    task: np.ndarray
    selectivity: np.ndarray


def concept_depth(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    concepts: Sequence[Concept],
    *,
    conditions: Sequence[Condition] = CONDITIONS,
    n_seeds: int = 5,
    permutations: int = 20,
    types: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Depth curves of `concepts`; axes (concept, condition, layer), layer `embed`, 0, …

    `score`, `low`, `high` (bounds over rows or groups, mean over seeds), `control`, `control_low`, `control_high` (shuffled labels
    of all seeds), `control_task` and `selectivity` (concept, layer). Axes (concept, condition, seed): `depth`, `jump`, `settled`,
    `peak` as places on the layer axis (0 the embedding; NaN: there is none). Attributes: `metrics`
    and `chance` of each concept. `types` gives the types of the control task [row] a
    concept; without it, the token that is read, or the groups where that is always the same. Raises InputError for a condition that
    is not known or no seed, DataError where folds are not possible or the noise makes a row too long.
    """
    chosen = _checked(conditions, n_seeds, concepts)
    before, found = model.forwards, []
    with progress.task("depth of concepts", len(concepts) * n_seeds) as task:
        for concept in concepts:
            own = None if types is None else types.get(concept.name)
            found.append(_one(model, concept, chosen, n_seeds, permutations, own, seed, task.advance))
    names = ["embed", *map(str, range(model.n_layers))]
    data = _table(found, [c.name for c in concepts], chosen, names)
    data.attrs["metrics"] = [choose_metric(c.labels, c.kind) for c in concepts]
    data.attrs["chance"] = [chance_of(c) for c in concepts]
    provenance = Provenance(
        "concept depth", sum(c.n for c in concepts), seed, model.name, model.revision,
        settings={"conditions": list(chosen), "seeds": n_seeds, "permutations": permutations},
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def first_readable(curve: np.ndarray, null: np.ndarray, peak: float | None = None) -> float:
    """The first place of `curve` [layer] that is above the highest points of 95 % of the null's curves `null` [layer, draw] and at
    least half way from chance (the null's mean) to `peak` (None: the curve's own); NaN where there is none."""
    top = curve.max() if peak is None else peak
    bar = np.quantile(null.max(0), 0.95) if null.shape[1] else -np.inf
    half = (null.mean() + top) / 2 if null.shape[1] else top / 2
    places = np.flatnonzero((curve > bar) & (curve >= half))
    return float(places[0]) if len(places) else float("nan")


def chance_of(concept: Concept) -> float:
    """What guessing by the classes' shares scores: 0 for r, 0.5 for AUC, the sum of squared shares for accuracy."""
    metric = choose_metric(concept.labels, concept.kind)
    if metric != "accuracy":
        return 0.0 if metric == "r" else 0.5
    return float(np.square(np.bincount(concept.labels) / concept.n).sum())


def shifts(depths: Scores, point: str = "depth") -> xr.DataArray:
    """How many layers deeper each condition is than the model as it is, (concept, condition, seed); NaN where either has none."""
    data = depths.data[point]
    return data.sel(condition=[c for c in data["condition"].values if c != "as is"]) - data.sel(condition="as is")


def _checked(conditions: Sequence[Condition], n_seeds: int, concepts: Sequence[Concept]) -> tuple[Condition, ...]:
    unknown = [c for c in conditions if c not in CONDITIONS]
    if unknown:
        raise InputError(f"{', '.join(map(repr, unknown))}: the conditions are {', '.join(CONDITIONS)}")
    if n_seeds < 1 or not concepts:
        raise InputError(f"{len(concepts)} concepts and {n_seeds} seeds give no curve; give at least one of each")
    return ("as is", *(c for c in CONDITIONS if c in conditions and c != "as is"))


def _one(  # noqa: PLR0913 - private half of the method
    model: Model,
    concept: Concept,
    conditions: tuple[Condition, ...],
    n_seeds: int,
    permutations: int,
    types: np.ndarray | None,
    seed: int,
    advance,
) -> _Curves:
    batch, read = locate(model, concept)
    fixed = {c: _stream(model, batch, read, c) for c in conditions if c != "noised"}
    shape = (n_seeds, len(conditions), model.n_layers + 1)
    score, low, high = (np.zeros(shape) for _ in range(3))
    null = np.zeros((*shape, max(permutations, 1)))
    points = {name: np.full(shape[:2], np.nan) for name in POINTS}
    for i in range(n_seeds):
        problem = make_problem(concept, permutations, seed + i)
        for j, condition in enumerate(conditions):
            stream = read_noised(model, concept, seed + i) if condition == "noised" else fixed[condition]
            by_layer, values = held_out_scores(stream, problem)
            score[i, j], null[i, j] = by_layer[:, 0], by_layer[:, 1:] if permutations else np.nan
            low[i, j], high[i, j] = score_intervals(problem, values, concept.groups, seed + i).T
            for name, place in _points(by_layer, problem.metric, float(score[i, 0].max())).items():
                points[name][i, j] = place
        advance()
    task = _task(concept, fixed["as is"], types, batch, read, seed)
    return _Curves(score, low, high, null, points, *task)


def _stream(model: Model, batch, read: list[int], condition: Condition) -> Tensor:
    if condition == "as is":
        return stream_at(model, batch, read)
    with quantised(model, to=condition):
        return stream_at(model, batch, read)


def _points(by_layer: np.ndarray, metric: Metric, top: float) -> dict[str, float]:
    """The places of one curve `by_layer` [layer, draw], the real labels first; `top` is the peak of the model as it is."""
    curve, null, last = by_layer[:, 0], by_layer[:, 1:], len(by_layer) - 1
    jump, settled = converging_points(curve, null, metric)
    depth = first_readable(curve, null, top)
    peak = float(curve.argmax()) if np.isfinite(depth) else float("nan")
    return {
        "depth": depth,
        "jump": float("nan") if jump is None else jump * last,
        "settled": float("nan") if settled is None else settled * last,
        "peak": peak,
    }


def _task(
    concept: Concept, stream: Tensor, types: np.ndarray | None, batch, read: list[int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The control task's score and the selectivity, [layer]; NaN where there are no types."""
    token = np.array([row[r] for row, r in zip(batch.ids, read, strict=True)])
    own = types if types is not None else token if len(np.unique(token)) > 1 else concept.groups
    if own is None:
        return np.full(stream.shape[1], np.nan), np.full(stream.shape[1], np.nan)
    if len(own) != concept.n:
        raise DataError(f"concept {concept.name!r}: {len(own)} types came for {concept.n} rows; give one a row")
    found = control_task(stream, concept.labels, concept.kind, np.asarray(own), seed=seed)
    return found.control.mean(1), found.selectivity


def _table(
    found: Sequence[_Curves], concepts: list[str], conditions: tuple[Condition, ...], layers: list[str]
) -> xr.Dataset:
    dims = ("concept", "condition", "layer")
    null = np.stack([np.moveaxis(f.null, 0, -1).reshape(*f.null.shape[1:3], -1) for f in found])
    columns = {name: (dims, np.stack([getattr(f, name).mean(0) for f in found])) for name in ("score", "low", "high")}
    columns |= {
        "control": (dims, null.mean(-1)),
        "control_low": (dims, np.quantile(null, 0.025, axis=-1)),
        "control_high": (dims, np.quantile(null, 0.95, axis=-1)),
        "control_task": (("concept", "layer"), np.stack([f.task for f in found])),
        "selectivity": (("concept", "layer"), np.stack([f.selectivity for f in found])),
    }
    by_seed = ("concept", "condition", "seed")
    columns |= {name: (by_seed, np.stack([f.points[name].T for f in found])) for name in POINTS}
    return xr.Dataset(columns, coords={"concept": concepts, "condition": list(conditions), "layer": layers})
