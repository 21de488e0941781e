"""What sets of heads or neurons do, each set changed together: away (mean, zero), weaker, stronger or turned round (scale), held
at a value (clamp), beside random sets of as many others under the same change.

Of two redundant pathways either alone does nothing and both together everything; only sets show it. The means are those over the
rows' own tokens (or last tokens). Source: Wang et al. 2023 (mean ablation). Control: `n_random` sets of as many units outside all
named sets, anywhere or with as many in every layer (`same_layers`).
Cost: a forward for the means, and a sweep of (sets + n_random for each size of set) edits over the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.measure.effects.unit_effects import random_sets
from conceptlab.model import Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import SITES, Edit, Provenance, Scores, Site
from conceptlab.results.edit import Positions
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "effects of sets of units",
    "paper": "Wang et al. 2023; Dutta et al. 2024",
    "tags": ["effects", "ablation", "heads", "neurons"],
    "takes": "a model, texts, named sets of heads or neurons, a metric",
    "returns": "Scores",
    "cost": "one forward and a sweep of sets + random sets",
}
Op = Literal["mean", "zero", "scale", "clamp"]
NAMES = {"head": "heads", "neuron": "neurons"}


def set_effects(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    sets: Mapping[str, Sequence[Site]],
    metric: Metric,
    *,
    op: Op = "mean",
    strength: float = 1.0,
    positions: Positions = "all",
    groups: Sequence[int | str] | None = None,
    same_layers: bool = False,
    n_random: int = 20,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Loss of `metric` (clean - changed) under each of `sets`: heads as `L5.H3.z`, or neurons as `L5.N17.mlp_post`.

    `op`: to the `mean` over the rows, to `zero`, `scale` by `strength`, or `clamp` at the value `strength`. Axis set: `score` with
    `low`, `high` (95 %, rows or `groups` drawn again), `control` mean loss under random sets, `control_low`, `control_high` their
    95 % range, `p` that random sets do as much (either sign), `q` over sets, `size`; attribute `clean` is the mean metric.
    Raises InputError for an empty set, units that the model lacks or of several sites, or too few others; SiteError where the model
    has no such site.
    """
    site = _site_of(model, sets)
    masks = {name: unit_mask(model, site, name, units) for name, units in sets.items()}
    batch, before = model.encode(texts), model.forwards
    grid = _Grid(model, site, tuple(model.layers_with(site)), batch, op, strength, positions)
    items, place = list(masks.values()), {}
    closed = np.any(items, axis=0) | ~grid.there()
    for name, mask in masks.items():
        drawn = random_like(name, mask, closed, n_random, seed, same_layers=same_layers)
        place[name] = range(len(items), len(items) + n_random)
        items = [*items, *drawn]
    found = sweep(model, batch, [grid.edits(mask) for mask in items], metric, progress=progress)
    loss = found.clean[None] - found.values
    data = loss_table(loss, masks, place, row_groups(groups, len(batch)), seed)
    data.attrs["clean"] = float(found.clean.mean())
    listed = {name: [str(unit) for unit in units][:100] for name, units in sets.items()}
    settings = {
        "op": op, "strength": strength, "positions": str(positions), "n_random": n_random, "same_layers": same_layers,
        "metric": metric.name, "sets": listed,
    }  # fmt: skip
    provenance = Provenance(
        "effects of sets of units", len(batch), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), causal="ablation", warnings=found.notes,
    )  # fmt: skip
    return Scores(data, provenance)


@dataclass(eq=False)
class _Grid:
    """The units of one site, and the edits that change some of them."""

    model: Model
    site: str
    layers: tuple[int, ...]
    batch: Texts
    op: Op
    strength: float
    positions: Positions

    def __post_init__(self) -> None:
        if self.op not in ("mean", "zero", "scale", "clamp"):
            raise InputError(f"op={self.op!r} is not known; use mean, zero, scale or clamp")
        self.means = None
        if self.op == "mean":
            at = self.positions if isinstance(self.positions, str) else list(self.positions)
            self.means = self.model.capture(self.batch, self.site, positions=at)[self.site].mean(0)

    def there(self) -> np.ndarray:
        """Which units [layer, unit] the model has."""
        found = np.zeros(unit_shape(self.model, self.site), dtype=bool)
        for layer in self.layers:
            found[layer, : unit_count(self.model, self.site, layer)] = True
        return found

    def edits(self, mask: np.ndarray) -> tuple[Edit, ...]:
        """One edit a layer."""
        found = []
        for axis, layer in enumerate(self.layers):
            units = tuple(np.flatnonzero(mask[layer]).tolist())
            if units:
                found.append(self._edit(Site(self.site, layer, units), axis, list(units)))
        return tuple(found)

    def _edit(self, site: Site, axis: int, units: list[int]) -> Edit:
        if self.op == "mean":
            return Edit(site, "mean", value=self.means[axis, units], positions=self.positions)  # type: ignore[index]
        if self.op == "clamp":
            return Edit(site, "set", value=torch.full((len(units),), self.strength), positions=self.positions)
        return Edit(site, self.op, strength=self.strength, positions=self.positions)  # type: ignore[arg-type]


def _site_of(model: Model, sets: Mapping[str, Sequence[Site]]) -> str:
    names = {unit.name for units in sets.values() for unit in units}
    if not sets:
        raise InputError("no sets of heads or neurons were named; give at least one")
    for name, units in sets.items():
        if not units:
            raise InputError(f"the set {name!r} is empty; name at least one head or neuron")
    if len(names) > 1 or SITES[next(iter(names))] not in NAMES:
        raise InputError("a set holds heads (L5.H3.z) or neurons (L5.N17.mlp_post), all of one site; name those")
    name = names.pop()
    layers = model.layers_with(name)
    model.tap(name, layers[0] if layers else 0)  # says why, where no layer has them
    return name


def unit_count(model: Model, site: str, layer: int | None) -> int:
    tap = model.tap(site, layer)
    return int((tap.width if SITES[site] == "neuron" else tap.heads) or 0)


def unit_shape(model: Model, site: str) -> tuple[int, int]:
    return model.n_layers, max(unit_count(model, site, layer) for layer in model.layers_with(site))


def unit_mask(model: Model, site: str, name: str, units: Sequence[Site]) -> np.ndarray:
    """Which units [layer, unit] a set names."""
    mask, kind = np.zeros(unit_shape(model, site), dtype=bool), NAMES[SITES[site]]
    for unit in units:
        size = unit_count(model, site, unit.layer)
        if not unit.units or max(unit.units) >= size:
            raise InputError(f"the set {name!r} names {unit}, but layer {unit.layer} has {kind} 0 to {size - 1}")
        mask[unit.layer or 0, list(unit.units)] = True
    return mask


def random_like(name: str, mask: np.ndarray, closed: np.ndarray, n: int, seed: int, *, same_layers: bool) -> np.ndarray:
    """`n` random sets [n, layer, unit] as large as `mask`, outside `closed`. Raises InputError where too few are left."""
    parts = [mask]
    if same_layers:
        parts = [np.where(np.arange(len(mask))[:, None] == layer, mask, False) for layer in np.flatnonzero(mask.any(1))]
    drawn: np.ndarray = np.zeros((n, *mask.shape), dtype=bool)
    for number, part in enumerate(parts):
        shut = closed | ~part.any(axis=1, keepdims=True) if same_layers else closed
        if (~shut).sum() < part.sum():
            raise InputError(
                f"the set {name!r} of {int(part.sum())} leaves only {int((~shut).sum())} others"
                f"{' in its layers' if same_layers else ''} to draw random sets from; name smaller sets"
            )
        drawn |= random_sets(int(part.sum()), mask.shape, n, seed + number, avoid=shut)
    return drawn


def loss_table(
    loss: np.ndarray, masks: Mapping[str, np.ndarray], place: Mapping[str, range], together: np.ndarray, seed: int
) -> xr.Dataset:
    score = loss[: len(masks)].mean(1)
    null = np.stack([loss[list(place[name])].mean(1) for name in masks])  # [set, draw]
    low, high = bootstrap_mean(loss[: len(masks)].T, together, seed=seed)
    nothing = np.full(len(score), np.nan)
    ends, p, control = (nothing, nothing), nothing, nothing
    if null.shape[1]:
        control, ends = null.mean(1), np.quantile(null, [0.025, 0.975], axis=1)
        p = permutation_p(np.abs(score), np.abs(null).T)
    columns = {
        "score": score, "low": low, "high": high, "control": control, "control_low": ends[0], "control_high": ends[1],
        "p": p, "q": q_values(p) if null.shape[1] else nothing, "size": np.array([int(m.sum()) for m in masks.values()]),
    }  # fmt: skip
    return xr.Dataset({name: ("set", column) for name, column in columns.items()}, coords={"set": list(masks)})
