"""What patching back one head or one neuron restores of an answer, row by row: the raw material of comparing tasks.

Corrupted rows get the clean value of one head (`z`) or neuron (`mlp_post`) at the last position. An effect is the change of
logit(answer) - logit(distractor) as a share of the mean change that the whole clean text brings (denoising). Heads are patched
exactly by a sweep; neurons by gradient x change at the corrupted run (attribution patching), which is exact where what a neuron
writes reaches the answer in a straight line, and else an estimate.
Sources: Zhang and Nanda 2024 (patching); Syed, Rager and Conmy 2023 (gradient x change). No statistic
is made here, so nothing is controlled here: `find/abilities` does both.
Cost: a sweep of one edit a head, two captures, one forward and backward of the rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, SiteError
from conceptlab.measure.effects.paired_tasks import PairedTask
from conceptlab.measure.patching.pairs import Pairs
from conceptlab.model import Model
from conceptlab.model.gradients import gradients, in_groups
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Site

SITES_OF = {"head": "z", "neuron": "mlp_post"}


@dataclass(frozen=True, eq=False)
class UnitPatches:
    """`each` [row, unit] effects of the units `kind`, `layer`, `index` [unit]; `passes` forwards were spent, `notes` of the
    sweep."""

    each: np.ndarray
    kind: np.ndarray
    layer: np.ndarray
    index: np.ndarray
    passes: float
    notes: tuple[str, ...]

    def site(self, unit: int) -> Site:
        """The site of one unit."""
        return Site(SITES_OF[str(self.kind[unit])], int(self.layer[unit]), (int(self.index[unit]),))


def patched_units(model: Model, task: PairedTask) -> UnitPatches:
    """Effects of every head and neuron that the model has. Raises InputError where clean and corrupted rows score alike, SiteError
    where the model has neither heads nor neurons."""
    before, pairs = model.forwards, Pairs(model, task.corrupted, task.clean, "denoising")
    ends = pairs.ends(task.metric)
    whole, parts, notes = float(np.mean(ends.whole - ends.empty)), [], ()
    if model.layers_with("z"):
        edits, names = _head_edits(model, task)
        found = sweep(model, task.corrupted, edits, task.metric)
        parts.append((found.change.T, names))
        notes = found.notes
    if model.layers_with("mlp_post"):
        parts += _neurons(model, task)
    if not parts:
        raise SiteError(f"{model.name} has neither heads nor neurons that can be told apart; nothing can be patched")
    kinds, layers, index = (np.concatenate(column) for column in zip(*(names for _, names in parts), strict=True))
    each = np.concatenate([values for values, _ in parts], 1) / whole
    if not np.isfinite(each).all():
        raise InputError("an effect is NaN or infinite; look at the model's own logits and gradients first")
    return UnitPatches(each, kinds, layers, index, model.forwards - before, notes)


_Names = tuple[np.ndarray, np.ndarray, np.ndarray]  # kind, layer and index [unit]


def _named(kind: str, layer: int, size: int) -> _Names:
    return np.full(size, kind), np.full(size, layer), np.arange(size)


def _head_edits(model: Model, task: PairedTask) -> tuple[list[Edit], _Names]:
    """One edit a head that sets it to its clean value, and the heads' names."""
    edits, names = [], []
    for layer in model.layers_with("z"):
        values = model.capture(task.clean, "z", layers=[layer])["z"][:, 0]  # [row, head, d_head]
        heads = range(values.shape[1])
        edits += [Edit(Site("z", layer, (h,)), "set", values[:, h : h + 1], positions="last") for h in heads]
        names.append(_named("head", layer, len(heads)))
    return edits, tuple(np.concatenate(column) for column in zip(*names, strict=True))  # type: ignore[return-value]


def _neurons(model: Model, task: PairedTask) -> list[tuple[np.ndarray, _Names]]:
    """Gradient x change of every neuron, layer by layer, [row, neuron]."""
    places = [("mlp_post", layer) for layer in model.layers_with("mlp_post")]
    width = 4 * sum(model.tap(*place).width or 0 for place in places)
    found: list[Tensor | None] = [None] * len(places)
    for rows in in_groups(model, task.corrupted, None, per_token=3 * width, copies=2):
        run = gradients(model, task.corrupted.select(rows), task.metric, places, rows=rows)
        clean = model.capture(task.clean.select(rows), "mlp_post", layers=[layer for _, layer in places])
        for i, place in enumerate(places):
            change = clean.at("mlp_post", place[1]) - run.values[place][:, -1]
            part = (run.grads[place][:, -1].double() * change.double()).cpu()
            whole = found[i]
            if whole is None:
                whole = found[i] = torch.zeros(len(task), part.shape[1], dtype=torch.float64)
            whole[rows] = part
    return [
        (values.numpy(), _named("neuron", layer, values.shape[1]))
        for values, (_, layer) in zip(found, places, strict=True)
        if values is not None
    ]
