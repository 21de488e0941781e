"""Knock out sets of heads, each set together: what it costs in accuracy, beside random sets of as many other heads.

Of two redundant pathways either alone costs nothing and both together everything; only sets show it. Heads are put to their mean
over the rows' tokens (or last tokens), or to 0. Source: Wang et al. 2023 (mean ablation); Dutta et al. 2024 (parallel answer
pathways). Cost: one forward for the means, and a sweep of (sets + n_random for each size of set) edits over the rows.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.measure.effects.unit_effects import random_sets
from conceptlab.model import Model
from conceptlab.model.metric import right
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site
from conceptlab.results.edit import Positions

CARD = {
    "name": "knock-out of head sets",
    "paper": "Wang et al. 2023; Dutta et al. 2024",
    "tags": ["effects", "ablation", "heads"],
    "takes": "a model, texts, named sets of heads, answer tokens",
    "returns": "Scores",
    "cost": "one forward and a sweep of sets + random sets",
}


def set_knockout(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    sets: Mapping[str, Sequence[Site]],
    answers: Sequence[int],
    *,
    op: Literal["mean", "zero"] = "mean",
    positions: Literal["all", "last"] = "all",
    groups: Sequence[int | str] | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> Scores:
    """Cost of knocking out each of `sets` (heads as sites such as `L5.H3.z`), at all or the last position, on the share of rows
    whose first choice is `answers`.

    Axis set: `score` cost in points (0 to 100), `low`, `high` bootstrap over rows or `groups`, `control` mean cost of random sets
    of as many heads outside all named sets, `control_high` its 95 % point, `p`, `q` over sets, `size`. Attribute `accuracy` of
    the model. Raises InputError for an empty set, heads that the model lacks, or too few other heads; SiteError where the model
    has no heads.
    """
    layers = model.layers_with("z")
    model.tap("z", layers[0] if layers else 0)  # says why, where no layer has heads
    masks = {name: _mask(model, name, heads) for name, heads in sets.items()}
    if not masks:
        raise InputError("no sets of heads were named; give at least one")
    closed = np.any(list(masks.values()), axis=0) | ~np.isin(np.arange(model.n_layers), layers)[:, None]
    batch, before = model.encode(texts), model.forwards
    items = list(masks.values())
    place = {}
    for size in sorted({int(mask.sum()) for mask in items}):
        if (~closed).sum() < size:
            raise InputError(f"a set of {size} heads leaves only {int((~closed).sum())} others; name smaller sets")
        place[size] = range(len(items), len(items) + n_random)
        items = [*items, *random_sets(size, closed.shape, n_random, seed, avoid=closed)]
    means = model.capture(batch, "z", positions=positions)["z"].mean(0) if op == "mean" else None
    edits = [_edits(mask, layers, means, positions) for mask in items]
    found = sweep(model, batch, edits, right(answers))
    cost = 100 * (found.clean[None] - found.values)  # [item, row]
    data = _table(cost, masks, place, row_groups(groups, len(batch)), seed)
    data.attrs["accuracy"] = float(found.clean.mean())
    provenance = Provenance(
        "knock-out of head sets", len(batch), seed, model.name, model.revision, settings={"op": op, "positions": positions,
        "n_random": n_random, "sets": {name: [str(h) for h in heads] for name, heads in sets.items()}},
        passes=round(model.forwards - before), causal="ablation", warnings=found.notes,
    )  # fmt: skip
    return Scores(data, provenance)


def _mask(model: Model, name: str, heads: Sequence[Site]) -> np.ndarray:
    """Which heads [layer, head] a set names."""
    mask = np.zeros((model.n_layers, model.n_heads), dtype=bool)
    for head in heads:
        tap = model.tap("z", head.layer)
        if not head.units or max(head.units) >= (tap.heads or 0):
            raise InputError(
                f"the set {name!r} names {head}, but layer {head.layer} has heads 0 to {(tap.heads or 0) - 1}"
            )
        mask[head.layer or 0, list(head.units)] = True
    if not mask.any():
        raise InputError(f"the set {name!r} is empty; name at least one head")
    return mask


def _edits(
    mask: np.ndarray, layers: Sequence[int], means: torch.Tensor | None, positions: Positions
) -> tuple[Edit, ...]:
    found = []
    for axis, layer in enumerate(layers):
        units = tuple(np.flatnonzero(mask[layer]).tolist())
        if units:
            value = None if means is None else means[axis, list(units)]
            found.append(
                Edit(Site("z", layer, units), "zero" if value is None else "mean", value=value, positions=positions)
            )  # type: ignore[arg-type]
    return tuple(found)


def _table(
    cost: np.ndarray, masks: Mapping[str, np.ndarray], place: Mapping[int, range], together: np.ndarray, seed: int
) -> xr.Dataset:
    sizes = [int(mask.sum()) for mask in masks.values()]
    score = cost[: len(masks)].mean(1)
    null = np.stack([cost[list(place[size])].mean(1) for size in sizes])  # [set, draw]
    low, high = bootstrap_mean(cost[: len(masks)].T, together, seed=seed)
    drawn = null.shape[1] > 0
    nothing = np.full(len(score), np.nan)
    p = permutation_p(score, null.T) if drawn else nothing
    columns = {
        "score": score,
        "low": low,
        "high": high,
        "control": null.mean(1) if drawn else nothing,
        "control_high": np.quantile(null, 0.95, axis=1) if drawn else nothing,
        "p": p,
        "q": q_values(p) if drawn else nothing,
        "size": np.array(sizes),
    }
    return xr.Dataset({name: ("set", column) for name, column in columns.items()}, coords={"set": list(masks)})
