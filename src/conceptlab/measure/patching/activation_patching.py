"""Activation patching: put what one place holds on another text into this one, and see how much of the answer follows.

Noising changes clean rows with corrupted values (is the place necessary?), denoising corrupted rows with clean ones (does it
suffice?); the effect is (M_clean - M_edit) / (M_clean - M_corrupted), or the same from the other end: 0 nothing, 1 everything.
Sources: Vig et al. 2020; Meng et al. 2022 (causal tracing); Zhang and Nanda 2024 (which form to use). What redundant paths do is
hidden from one direction: an OR from noising, an AND from denoising.
Control: the same cell moved by as much in a random direction; p asks whether the real change does more, by over
1 % of the whole (less is of no interest; the two change places in random rows), q is over every cell searched. One neuron has no
other direction: its control is the same step the other way.
Cost: one clean run, and for each cell (1 + control) replays of what it can reach (`conceptlab.model.sweep` plans and says it).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError, SiteError
from conceptlab.evidence import q_values
from conceptlab.evidence.floor import FLOOR
from conceptlab.evidence.swapped_rows import swapped_rows_p
from conceptlab.measure.patching.pairs import Direction, Pairs, make_pairs, random_like
from conceptlab.model import Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import Sweep, sweep
from conceptlab.results import SITES, Edit, Provenance, Scores, Site
from conceptlab.results.edit import Positions
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "activation patching",
    "paper": "Vig et al. 2020; Meng et al. 2022; Zhang and Nanda 2024",
    "tags": ["patching", "heads", "neurons", "stream"],
    "takes": "a model, clean and corrupted texts of equal length, a metric",
    "returns": "Scores",
    "cost": "a sweep of 2 x cells edits",
}
By = Literal["layer", "position", "head", "head_position", "neuron"]
AXES: dict[str, tuple[str, ...]] = {
    "layer": ("layer",),
    "position": ("layer", "position"),
    "head": ("layer", "head"),
    "head_position": ("layer", "head", "position"),
    "neuron": ("layer", "neuron"),
}


def activation_patching(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    clean: Texts,
    corrupted: Texts,
    metric: Metric,
    *,
    site: str = "resid_pre",
    by: By = "position",
    layers: Sequence[int] | None = None,
    positions: Positions = "all",
    units: Sequence[int] | None = None,
    direction: Direction = "noising",
    control: bool = True,
    seed: int = 0,
    progress: Progress = SILENT,
    out: Path | str | None = None,
) -> Scores:
    """Effects of patching `site`, cell by cell: `by` is "layer", "position", "head", "head_position" or "neuron".

    `positions` are patched together, or one by one where `by` has a position axis; `units` limits heads or neurons. Returns `score`
    (mean normalised effect) with `low`, `high` (95 %, pairs drawn again), `control`, `p`, `q`, and `clean`, `corrupted` [row].
    `control=False` leaves the random patches out (control, p, q are then NaN, and `warnings` says so). `out` keeps finished parts.
    Raises InputError for pairs of unequal length, a clean and corrupted score that are the same, `by` that does not fit the site,
    and as `sweep` does; SiteError where the model lacks the site.
    """
    pairs = make_pairs(model, clean, corrupted, direction)
    grid = _grid(pairs, site, by, layers, positions, units)
    ends = pairs.ends(metric)
    base, donor = pairs.donated(site, grid.layers)
    generator = torch.Generator().manual_seed(seed)
    stand_in = 2 * base - donor if by == "neuron" else random_like(base, donor, generator)
    runs = {"real": donor, **({"random": stand_in} if control else {})}
    found: dict[str, Sweep] = {}
    for name, values in runs.items():
        folder = None if out is None else Path(out) / name
        found[name] = sweep(model, pairs.base, grid.edits(pairs, values), metric, progress=progress, out=folder)
    data = _table(pairs, grid, ends, found, seed)
    ends_warn = () if control else ("no random patches were run, so nothing says which effects are more than chance",)
    provenance = Provenance(
        "activation patching", len(pairs.base), seed, model=model.name, revision=model.revision,
        settings={"site": site, "by": by, "direction": direction, "metric": metric.name, "positions": str(positions)},
        passes=round(sum(s.passes for s in found.values())) + 2 * len(pairs.base), causal="patching",
        warnings=(*ends.warnings, *ends_warn, *found["real"].notes),
    )  # fmt: skip
    return Scores(data, provenance)


@dataclass(frozen=True)
class _Grid:
    """The cells: `layers` x `units` x `positions` (one entry None where that axis is patched together)."""

    site: str
    by: By
    layers: tuple[int, ...]
    units: tuple[int | None, ...]
    positions: tuple[int | None, ...]
    together: Positions

    def cells(self) -> list[tuple[int, int | None, int | None]]:
        """(layer, unit, position) of every cell, in the order of the axes."""
        return list(product(self.layers, self.units, self.positions))

    def edits(self, pairs: Pairs, values: Tensor) -> list[Edit]:
        """One edit a cell that sets it to `values` [token, layer, …] of all tokens of the pairs."""
        starts = np.cumsum([0, *pairs.base.lengths[:-1]])
        tokens = {at: self._tokens(pairs, starts, at) for at in self.positions}
        axis = {layer: i for i, layer in enumerate(self.layers)}
        found = []
        for layer, unit, at in self.cells():
            cell = values[tokens[at], axis[layer]]
            if unit is not None:
                cell = cell[:, unit : unit + 1]
            where = self.together if at is None else (at,)
            found.append(Edit(Site(self.site, layer, () if unit is None else (unit,)), "set", cell, positions=where))
        return found

    def _tokens(self, pairs: Pairs, starts: np.ndarray, at: int | None) -> Tensor:
        """Places of the patched cells among all tokens, row by row."""
        asked = self.together if at is None else (at,)
        found = []
        for start, length in zip(starts, pairs.base.lengths, strict=True):
            if isinstance(asked, str):
                chosen = range(length) if asked == "all" else [length - 1]
            else:
                chosen = [p + length if p < 0 else p for p in asked]
            found += [int(start) + p for p in chosen]
        return torch.tensor(found)

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        sizes = {"layer": self.layers, "head": self.units, "neuron": self.units, "position": self.positions}
        return tuple(len(sizes[name]) for name in AXES[self.by])

    def coords(self) -> dict[str, list[int]]:
        """Labels of the axes."""
        every = {"layer": self.layers, "head": self.units, "neuron": self.units, "position": self.positions}
        return {name: [int(v) for v in every[name] if v is not None] for name in AXES[self.by]}


def _grid(  # noqa: PLR0913 - private half of the method
    pairs: Pairs,
    site: str,
    by: By,
    layers: Sequence[int] | None,
    positions: Positions,
    units: Sequence[int] | None,
) -> _Grid:
    model = pairs.model
    if by not in AXES:
        raise InputError(f"by={by!r} is not known; use {', '.join(AXES)}")
    if site not in SITES:
        raise SiteError(f"no site is called {site!r}; the sites are {', '.join(SITES)}")
    kind, axis = SITES[site], {"head": "head", "head_position": "head", "neuron": "neuron"}.get(by)
    fits = {"head": ("head", "kv_head"), "neuron": ("neuron",), None: ("stream", "head", "kv_head", "neuron")}[axis]
    if kind not in fits or kind == "end":
        raise InputError(
            f"by={by!r} does not fit {site}: it is patched per {'stream position' if kind == 'stream' else kind}"
        )
    chosen = tuple(model.layers_with(site) if layers is None else layers)
    if not chosen:
        model.tap(site, 0)  # says why no layer has it
    taps = [model.tap(site, layer) for layer in chosen]
    size = min((t.heads if axis == "head" else t.width) or 0 for t in taps)
    cells = (None,) if axis is None else tuple(range(size) if units is None else units)
    if axis is not None and any(not 0 <= u < size for u in cells):  # type: ignore[operator]
        raise InputError(f"{site} has {axis}s 0 to {size - 1}; asked were {list(units or ())}")
    if isinstance(positions, str) and positions not in ("all", "last"):
        raise InputError(f'positions are "all", "last" or a list of numbers, not "{positions}"')
    if "position" in AXES[by]:
        return _Grid(site, by, chosen, cells, _one_by_one(positions, pairs.n_pos), "all")
    return _Grid(site, by, chosen, cells, (None,), positions)


def _one_by_one(positions: Positions, n_pos: int) -> tuple[int, ...]:
    """The positions that an axis goes through."""
    if isinstance(positions, str):
        return tuple(range(n_pos)) if positions == "all" else (n_pos - 1,)
    return tuple(positions)


def _table(pairs: Pairs, grid: _Grid, ends, found: dict[str, Sweep], seed: int) -> xr.Dataset:
    """The effects on the grid's axes."""
    dims, real = AXES[grid.by], found["real"]
    score = pairs.effect(ends, real.values)
    low, high = pairs.interval(ends, real.values, seed)
    none = np.full(len(score), np.nan)
    control, p, q = none, none, none
    if "random" in found:
        control = pairs.effect(ends, found["random"].values)
        p = swapped_rows_p(real.change.T, found["random"].change.T, floor=FLOOR * abs(ends.gap), seed=seed)
        p = np.ones_like(p) if ends.warnings else p  # a share of a difference that is not there is no finding
        q = q_values(p)
    columns = {"score": score, "low": low, "high": high, "control": control, "p": p, "q": q}
    data = {name: (dims, np.asarray(values).reshape(grid.shape)) for name, values in columns.items()}
    rows = {"clean": ("row", ends.whole), "corrupted": ("row", ends.empty)}
    attrs = {"site": grid.site, "direction": pairs.direction, "axes": list(dims)}
    return xr.Dataset({**data, **rows}, coords=grid.coords(), attrs=attrs)
