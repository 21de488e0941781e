"""Does losing the units of one ability cost this ability and spare the other, and the other way round?

Each of two sets of heads and neurons is put to its mean (over the last tokens of both tasks, which count alike) at the last
position. The table holds what that costs in accuracy on either task; the index is (cost of the first set to the first task - to
the second) + (cost of the second set to the second task - to the first): 2 for two abilities apart, 0 for one.
Sources: D10 of the methods' specification after Disentangling Recall and Reasoning in Transformer Models; Wang et al. 2023 (mean
ablation).
Controls: random sets with as many heads and neurons of the same layers outside both sets, and the index when rows' tasks are
shuffled.
Cost: one forward for the means, a sweep of 2 x (1 + n_random) edits over each task.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p, q_values, resample_counts
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.effects.paired_tasks import PairedTask, two_tasks
from conceptlab.measure.effects.unit_effects import random_sets
from conceptlab.model import Model
from conceptlab.model.metric import right
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "double dissociation",
    "paper": "Disentangling Recall and Reasoning in Transformer Models; Wang et al. 2023",
    "tags": ["effects", "ablation", "heads", "neurons"],
    "takes": "a model, two tasks, the heads and neurons of each",
    "returns": "Scores",
    "cost": "one forward and a sweep of 2 x (1 + n_random) edits over both tasks",
}
_Masks = dict[tuple[str, int], np.ndarray]  # site and layer -> which units


def double_dissociation(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    tasks: Mapping[str, PairedTask],
    units: Mapping[str, Sequence[Site]],
    *,
    n_random: int = 20,
    n_permutations: int = 1000,
    seed: int = 0,
) -> Scores:
    """Knock out the `units` of each task (sites of `z` or `mlp_post`, by the task's name) on the rows of both.

    Axes set and task (the same names): `score` cost in points of accuracy, `low`, `high` (95 %, rows drawn again), `control` mean
    cost of the random sets, `control_high` their 95 % point, `p`, `q` over the table; axis task: `accuracy`; axis set: `size`.
    Attributes: `index` with `index_low`, `index_high`, `index_p` and `index_null` (95 % point) under shuffled tasks, and
    `index_random` (95 % point over pairs of random sets). Warnings say where too few units are left for a random set. Raises
    InputError as `two_tasks`, and for sets that are empty, not of these tasks, or overlap.
    """
    names, before = two_tasks(tasks), model.forwards
    if set(units) != set(names):
        raise InputError(f"units came for {', '.join(units) or 'nothing'}; give those of {' and '.join(names)}")
    places = {(site, layer): model.tap(site, layer) for site in ("z", "mlp_post") for layer in model.layers_with(site)}
    sizes = {place: int((tap.heads if place[0] == "z" else tap.width) or 0) for place, tap in places.items()}
    masks = [_mask(name, units[name], sizes) for name in names]
    closed = {place: masks[0][place] | masks[1][place] for place in sizes}
    if any((masks[0][place] & masks[1][place]).any() for place in sizes):
        raise InputError("the two sets share a unit, so their costs cannot be told apart; leave shared units out")
    drawn = [_random(mask, closed, n_random, seed + i) for i, mask in enumerate(masks)]
    means = _means(model, list(tasks.values()), sizes)
    edits = [_edits(mask, means) for mask in (*masks, *drawn[0], *drawn[1])]
    runs = [sweep(model, task.clean, edits, right(task.answers)) for task in tasks.values()]
    costs = [run.clean[None] - run.values for run in runs]  # of each task [set, row]
    data = _table(names, costs, n_random, seed)
    data["accuracy"] = ("task", np.array([run.clean.mean() for run in runs]))
    data["size"] = ("set", np.array([sum(m.sum() for m in mask.values()) for mask in masks]))
    data.attrs.update(_index(costs, n_random, n_permutations, seed))
    told = [note for run in runs for note in run.notes]
    provenance = Provenance(
        "double dissociation", sum(len(task) for task in tasks.values()), seed, model.name, model.revision, causal="ablation",
        settings={"n_random": n_random, "op": "mean", "positions": "last",
                  "sets": {name: [str(site) for site in units[name]] for name in names}},
        passes=round(model.forwards - before), warnings=tuple(dict.fromkeys([*_short(names, masks, closed), *told])),
    )  # fmt: skip
    return Scores(data, provenance)


def _mask(name: str, units: Sequence[Site], sizes: Mapping[tuple[str, int], int]) -> _Masks:
    """The units of one set, over every place that has any."""
    found = {place: np.zeros(size, dtype=bool) for place, size in sizes.items()}
    for unit in units:
        place = (unit.name, -1 if unit.layer is None else unit.layer)
        if place not in sizes or not unit.units or max(unit.units) >= sizes[place]:
            raise InputError(
                f"the set {name!r} names {unit}, which is no head (L0.H0.z) or neuron (L0.N0.mlp_post) of the model"
            )
        found[place][list(unit.units)] = True
    if not units:
        raise InputError(f"the set {name!r} is empty; name at least one head or neuron")
    return found


def _random(mask: _Masks, closed: _Masks, n: int, seed: int) -> list[_Masks]:
    """`n` sets of as many units at each place outside the `closed` ones (all that are left, where those are too few)."""
    drawn = {
        place: random_sets(int(chosen.sum()), (len(chosen),), n, seed + 1000 * i, avoid=closed[place])
        for i, (place, chosen) in enumerate(mask.items())
        if chosen.any()
    }
    return [{place: sets[i] for place, sets in drawn.items()} for i in range(n)]


def _short(names: Sequence[str], masks: Sequence[_Masks], closed: _Masks) -> list[str]:
    """Where fewer units are left outside the sets than a set has, so that its random sets are smaller than it is."""
    notes = []
    for name, mask in zip(names, masks, strict=True):
        for (site, layer), chosen in mask.items():
            wanted, left = int(chosen.sum()), int((~closed[site, layer]).sum())
            if wanted > left:
                kind = "heads" if site == "z" else "neurons"
                notes.append(
                    f"{name} has {wanted} {kind} of layer {layer}, and its random sets {left}, all that are left there"
                )
    return notes


def _means(
    model: Model, tasks: Sequence[PairedTask], sizes: Mapping[tuple[str, int], int]
) -> dict[tuple[str, int], Tensor]:
    """Mean [unit, …] of the last token at every place; both tasks weigh alike."""
    sites = list(dict.fromkeys(site for site, _ in sizes))
    acts = [model.capture(task.clean, sites) for task in tasks]
    return {place: sum(a.at(*place).mean(0) for a in acts) / len(acts) for place in sizes}  # type: ignore[misc]


def _edits(mask: _Masks, means: Mapping[tuple[str, int], Tensor]) -> tuple[Edit, ...]:
    found = []
    for (site, layer), chosen in mask.items():
        picked = np.flatnonzero(chosen).tolist()
        if picked:
            value = means[site, layer][picked]
            found.append(Edit(Site(site, layer, tuple(picked)), "mean", value=value, positions="last"))
    return tuple(found)


def _table(names: tuple[str, str], costs: Sequence[np.ndarray], n_random: int, seed: int) -> xr.Dataset:
    """Costs in points [set, task] beside those of the random sets."""
    score = np.stack([100 * cost[:2].mean(1) for cost in costs], 1)
    null = np.stack([100 * cost[2:].mean(1).reshape(2, n_random) for cost in costs], 2)  # [set, draw, task]
    ends = np.array([[_interval(cost[i], seed) for cost in costs] for i in (0, 1)])  # [set, task, end]
    p = permutation_p(score, null.transpose(1, 0, 2))
    columns = {
        "score": score, "low": ends[..., 0], "high": ends[..., 1], "control": null.mean(1),
        "control_high": np.quantile(null, 0.95, axis=1), "p": p, "q": q_values(p.reshape(-1)).reshape(p.shape),
    }  # fmt: skip
    data = {name: (("set", "task"), values) for name, values in columns.items()}
    return xr.Dataset(data, coords={"set": list(names), "task": list(names)})


def _interval(cost: np.ndarray, seed: int) -> tuple[float, float]:
    """95 % of the mean cost in points; where all rows agree, the exact bound of a share."""
    if cost.min() < 0:
        counts = resample_counts(len(cost), None, 1000, seed) / len(cost)
        low, high = np.quantile(100 * counts @ cost, [0.025, 0.975])
        return float(low), float(high)
    low, high = bootstrap_share(cost, seed=seed)
    return 100 * low, 100 * high


def _index(costs: Sequence[np.ndarray], n_random: int, n_permutations: int, seed: int) -> dict[str, float]:
    """The index with its interval over rows, its null under shuffled tasks, and that of random sets."""
    apart = [cost[0] - cost[1] for cost in costs]  # first set minus second set, of each task [row]
    index = float(apart[0].mean() - apart[1].mean())
    drawn = [a @ (resample_counts(len(a), None, 1000, seed + i) / len(a)).T for i, a in enumerate(apart)]
    low, high = np.quantile(drawn[0] - drawn[1], [0.025, 0.975])
    rows, first, rng = np.concatenate(apart), len(apart[0]), np.random.default_rng(seed)
    null = np.empty(n_permutations)
    for draw in range(n_permutations):
        order = rng.permutation(len(rows))
        null[draw] = rows[order[:first]].mean() - rows[order[first:]].mean()
    by_chance = [cost[2 : 2 + n_random].mean(1) - cost[2 + n_random :].mean(1) for cost in costs]
    return {
        "index": index, "index_low": float(low), "index_high": float(high), "index_p": float(permutation_p(index, null)),
        "index_null": float(np.quantile(null, 0.95)), "index_random": float(np.quantile(by_chance[0] - by_chance[1], 0.95)),
    }  # fmt: skip
