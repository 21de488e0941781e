"""The head atlas: every detector over one model, the stage that each role belongs to, and whether the model uses what was found.

Each role's score stands beside its null with q over the heads that were searched. Then every head is taken away once for each
distinct task that some role is for, if the model does it at all (`task_ability`) and its heads together carry it (`head_losses`).
A head with a role's score (q <= 0.05) is its candidate; where the role's own task also loses by it (q <= 0.05 over heads, more
than 1 % of the whole) it is confirmed. Roles are many to a head, and depend on what was asked. The four stages are a way to sort
roles, not an order that was measured. Source: Zheng et al. 2024, Attention Heads of Large Language Models: A Survey (stages);
Wang et al. 2023 (ablation). Control: each detector's own null; for losses all other heads. Cost: the detectors', and for each
task a sweep of one edit a head.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import ConceptlabError, InputError
from conceptlab.find.detector import Behaviour, Detector, Found, chosen
from conceptlab.find.heads.find_heads import DETECTORS, find_heads
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.effects.head_losses import head_losses
from conceptlab.measure.effects.task_ability import task_ability
from conceptlab.model import Model
from conceptlab.results import Provenance, Scores, Units
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "head atlas",
    "paper": "Zheng et al. 2024, Attention Heads of Large Language Models: A Survey",
    "tags": ["heads", "survey", "ablation"],
    "takes": "a model",
    "returns": "Scores",
    "cost": "all detectors, and a sweep of one edit a head for each task",
}
STAGES = ("knowledge recalling", "in-context identification", "latent reasoning", "expression preparation")
NONE, CANDIDATE, CONFIRMED = range(3)
Q_MAX = 0.05


def head_atlas(
    model: Model,
    detectors: Sequence[str] | None = None,
    *,
    survey: HeadSurvey | None = None,
    found: Found | None = None,
    ablate: bool = True,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Axes (role, layer, head): `score`, `control`, `p`, `q` of every role that could be asked, and its `label` (0 none, 1
    candidate, 2 confirmed); axes (task, layer, head): `loss`, `loss_p`, `loss_q` of every task without each head, in units of its
    metric, with `clean` and `whole` by task. Coordinates of a role: `stage`, and `task_of` ("" where none could be asked).

    `found` are rankings of `find_heads` on the same survey, where they were made before; `ablate=False` leaves the tasks out.
    Attribute `skipped` says which roles and tasks were not asked, and why. Raises InputError for unknown names, and where no role
    could be asked.
    """
    looked, before = survey or HeadSurvey(model, seed=seed), model.forwards
    found = found or find_heads(model, detectors, survey=looked, progress=progress)
    if not found.units:
        raise InputError(
            f"no role of heads could be asked of {model.name}: {'; '.join(map(': '.join, found.skipped.items()))}"
        )
    used = {d.name: d for d in chosen(DETECTORS, list(found.units))}
    tasks, task_of, missing = _tasks(used, looked) if ablate else ({}, dict.fromkeys(used, ""), {})
    losses = {}
    for name, task in tasks.items():
        made = head_losses(model, task.batch, task.metric, seed=looked.seed, progress=progress)
        if made.data.attrs["whole"] > 0 or task.against:
            losses[name] = made
        else:
            missing[name] = f"no heads of {model.name} carry it: taking all of them away loses nothing"
    task_of = {role: task if task in losses else "" for role, task in task_of.items()}
    data = xr.merge([_roles(model, found, used, task_of), _lost(model, losses)])
    data["label"] = (("role", "layer", "head"), _labels(data))
    data.attrs["skipped"] = [f"{name}: {why}" for name, why in {**found.skipped, **missing}.items()]
    n = {name: units.scores.provenance.n for name, units in found.units.items()}
    provenance = Provenance(
        "head atlas", max(n.values()), looked.seed, model.name, model.revision, settings={"n": n, "q_max": Q_MAX},
        passes=round(model.forwards - before), causal="ablation" if losses else "none",
    )  # fmt: skip
    return Scores(data, provenance)


def _tasks(
    detectors: Mapping[str, Detector[HeadSurvey]], survey: HeadSurvey
) -> tuple[dict[str, Behaviour], dict[str, str], dict[str, str]]:
    """The distinct tasks by name, the task of each role ("": none), and why one could not be asked."""
    tasks: dict[str, Behaviour] = {}
    task_of, missing = dict.fromkeys(detectors, ""), {}
    made: dict[Callable[[HeadSurvey], Behaviour], Behaviour | str] = {}  # the task, or why there is none
    for name, detector in detectors.items():
        if detector.behaviour is None:
            continue
        if detector.behaviour not in made:
            made[detector.behaviour] = _task(detector.behaviour, survey)
        task = made[detector.behaviour]
        if isinstance(task, str):
            missing[f"the task of {name}"] = task
        else:
            tasks[task.name], task_of[name] = task, task.name
    return tasks, task_of, missing


def _task(behaviour: Callable[[HeadSurvey], Behaviour], survey: HeadSurvey) -> Behaviour | str:
    """The task, or why no head can be needed for it here."""
    try:
        task = behaviour(survey)
    except ConceptlabError as error:
        return str(error)
    able = task_ability(survey.model, task.batch, task.metric, against=task.against, seed=survey.seed)
    if able.there:
        return task
    return (
        f"{survey.model.name} does not do it ({task.name}): {task.metric.name} is {able.own:.3g} for the right answers and "
        f"{able.other:.3g} for those of other rows (p = {able.p:.2g})"
    )


def _roles(
    model: Model, found: Found, detectors: Mapping[str, Detector[HeadSurvey]], task_of: Mapping[str, str]
) -> xr.Dataset:
    names = sorted(found.units, key=lambda name: STAGES.index(detectors[name].stage))
    columns = {
        c: np.stack([_spread(model, found.units[name], c) for name in names]) for c in ("score", "control", "p", "q")
    }
    data = {c: (("role", "layer", "head"), values) for c, values in columns.items()}
    coords = {
        "role": names,
        "stage": ("role", [detectors[name].stage for name in names]),
        "task_of": ("role", [task_of[name] for name in names]),
    }
    return xr.Dataset(data, coords=coords)


def _spread(model: Model, units: Units, column: str) -> np.ndarray:
    """One column of a ranking as [layer, head]; NaN where a head was not searched."""
    found = np.full((model.n_layers, model.n_heads), np.nan)
    found[units.table["layer"].values, units.table["index"].values] = units.table[column].values
    return found


def _lost(model: Model, losses: Mapping[str, Scores]) -> xr.Dataset:
    shape = (len(losses), model.n_layers, model.n_heads)
    columns = {"loss": "score", "loss_p": "p", "loss_q": "q"}
    data = {n: (("task", "layer", "head"), np.array([s[c].values for s in losses.values()]).reshape(shape))
            for n, c in columns.items()}  # fmt: skip
    ends = {n: ("task", [float(s.data.attrs[n]) for s in losses.values()]) for n in ("clean", "whole")}
    return xr.Dataset({**data, **ends}, coords={"task": list(losses)})


def _labels(data: xr.Dataset) -> np.ndarray:
    """None, candidate or confirmed [role, layer, head]."""
    labels = np.where(data["q"].values <= Q_MAX, CANDIDATE, NONE)
    tasks = data["task"].values.tolist()
    for i, task in enumerate(data["task_of"].values.tolist()):
        if task in tasks:
            at = tasks.index(task)
            used = (data["loss_q"].values[at] <= Q_MAX) & (data["loss"].values[at] > 0)
            labels[i][(labels[i] == CANDIDATE) & used] = CONFIRMED
    return labels


def roles_of(atlas: Scores, *, least: int = CANDIDATE) -> dict[str, list[str]]:
    """The heads (`L0.H1`) with at least this label, by role."""
    labels = atlas["label"].values
    return {
        str(role): [f"L{layer}.H{head}" for layer, head in np.argwhere(labels[i] >= least)]
        for i, role in enumerate(atlas["role"].values)
    }
