"""Which heads and neurons restore the answers of one ability and not those of another?

Every unit's effect on every row comes from `patched_units` (denoising at the last position). A unit is selective where its mean
effects on the two tasks differ more than under shuffled tasks (q <= `q_max` over all heads and neurons), one is at least four
times the other (|selectivity| >= 0.6), and it is at least `floor` of the answer; shared where it is not selective, and both
effects are above 0 (random signs, q likewise) and at least the floor.
Source: D10 of the methods' specification after
Disentangling Recall and Reasoning in Transformer Models. Departure: one standardised null over all units (`moderated_p`, so that
no tiny spread wins) and a q value stand in place of the maximum over units, in which a neuron that serves few rows would drown
beside heads that serve all.
Control: rows of both tasks whose tasks are shuffled. Cost: that of `patched_units`.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.moderated import moderated_p
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.measure.effects.paired_tasks import PairedTask, two_tasks
from conceptlab.measure.patching.patched_units import SITES_OF, UnitPatches, patched_units
from conceptlab.model import Model
from conceptlab.results import Provenance, Scores, Site

CARD = {
    "name": "selective units",
    "paper": "Disentangling Recall and Reasoning in Transformer Models; Zhang and Nanda 2024; Syed et al. 2023",
    "tags": ["patching", "attribution", "heads", "neurons"],
    "takes": "a model, two tasks of clean and corrupted rows with their answers",
    "returns": "Scores",
    "cost": "a sweep of one edit a head, and four passes of the rows for all neurons",
}
SELECTIVE = 0.6  # (R - Q) / (|R| + |Q|) where one effect is four times the other


def selective_units(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    tasks: Mapping[str, PairedTask],
    *,
    n_permutations: int = 200,
    q_max: float = 0.05,
    floor: float = 0.01,
    seed: int = 0,
    patches: tuple[UnitPatches, UnitPatches] | None = None,
) -> Scores:
    """Search every head (`z`) and neuron (`mlp_post`) that the model has, at the last position.

    Axes unit and task: `effect` (mean share of the answer restored) with `low`, `high` (95 %, rows drawn again). Axis unit:
    `score`, the difference of the two effects (first task minus second), `control` its root mean square under shuffled tasks,
    `p`, `q`, `selectivity` in [-1, 1], `found` (the name of the task that the unit serves, "shared" or ""), `kind`, `layer`,
    `index`. `patches` of the two tasks are taken where they are at hand. Raises InputError as `two_tasks`, and where clean and
    corrupted rows score alike; SiteError where the model has neither heads nor neurons.
    """
    names = two_tasks(tasks)
    done = patches or tuple(patched_units(model, task) for task in tasks.values())
    each = [part.each for part in done]
    effect = np.stack([values.mean(0) for values in each], 1)  # [unit, task]
    score, null = effect[:, 0] - effect[:, 1], shuffled_differences(each, n_permutations, seed)
    selectivity = _selectivity(effect)
    p = moderated_p(score, null, floor)
    above = np.stack([q_values(sign_flip_p(values, seed=seed)) for values in each], 1) <= q_max
    q = q_values(p)
    columns = {
        "score": score, "control": np.sqrt(np.square(null).mean(0)), "p": p, "q": q, "selectivity": selectivity,
        "found": _found(names, np.where(np.abs(effect) >= floor, effect, 0.0), q <= q_max, np.all(above, axis=1)),
        "kind": done[0].kind, "layer": done[0].layer, "index": done[0].index,
    }  # fmt: skip
    ends = np.array([bootstrap_mean(values, seed=seed) for values in each])  # [task, end, unit]
    wide = {"effect": effect, "low": ends[:, 0].T, "high": ends[:, 1].T}
    data = {name: ("unit", values) for name, values in columns.items()}
    table = xr.Dataset({**data, **{n: (("unit", "task"), v) for n, v in wide.items()}}, coords={"task": list(names)})
    provenance = Provenance(
        "selective units", sum(map(len, each)), seed, model.name, model.revision, causal="patching",
        settings={"tasks": list(names), "n_permutations": n_permutations, "q_max": q_max, "floor": floor},
        passes=round(sum(part.passes for part in done)), warnings=tuple(dict.fromkeys(n for part in done for n in part.notes)),
    )  # fmt: skip
    return Scores(table, provenance)


def shuffled_differences(each: list[np.ndarray], n: int, seed: int) -> np.ndarray:
    """Differences [draw, unit] of the mean effects when rows of both tasks `each` [row, unit] are dealt out anew."""
    rng, rows, first = np.random.default_rng(seed), np.concatenate(each), len(each[0])
    weights = np.full((n, len(rows)), -1.0 / (len(rows) - first))
    for draw in weights:
        draw[rng.permutation(len(rows))[:first]] = 1.0 / first
    return weights @ rows


def units_of(found: Scores, name: str) -> list[Site]:
    """The units that `found` calls by this name (a task or "shared"), the largest effect first."""
    data = found.data
    places = np.flatnonzero(data["found"].values == name)
    order = places[np.argsort(-np.abs(data["effect"].values[places]).max(1), kind="stable")]
    kinds, layers, index = (data[column].values for column in ("kind", "layer", "index"))
    return [Site(SITES_OF[str(kinds[i])], int(layers[i]), (int(index[i]),)) for i in order]


def _selectivity(effect: np.ndarray) -> np.ndarray:
    """(R - Q) / (|R| + |Q|) [unit] of effects [unit, task]; 0 where both are 0."""
    size = np.abs(effect).sum(1)
    return np.divide(effect[:, 0] - effect[:, 1], size, out=np.zeros(len(size)), where=size > 0)


def _found(names: tuple[str, str], effect: np.ndarray, differs: np.ndarray, above: np.ndarray) -> np.ndarray:
    """What each unit is called: the task that it serves, "shared", or nothing; effects below the floor are 0."""
    selectivity = _selectivity(effect)
    own = np.where(selectivity > 0, 0, 1)
    serves = differs & (np.abs(selectivity) >= SELECTIVE) & (effect[np.arange(len(own)), own] > 0)
    shared = above & (effect > 0).all(1)
    return np.where(serves, np.array(names)[own], np.where(shared, "shared", ""))
