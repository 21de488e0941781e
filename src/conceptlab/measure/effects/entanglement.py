"""Were neurons taken over? What they lose on the texts they served, beside what they gain on those of a new task, after tuning.

ds is the relative drop of the set's mean activation size on the old texts (0 where it grew), dt its relative growth on the new ones
(0 where it fell), both of the size before, at the last position; score = 2 ds dt / (ds + dt), 0 where both are 0 (reciprocal
activation shift). Control: random sets of as many other neurons in the same layers; p is how often they score as much.
Source: R5 of the methods' specification after Reasoning-Induced Misalignment. Cost: two forwards of every text.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.measure.effects.unit_effects import random_sets
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores, Site

CARD = {
    "name": "entanglement of neurons",
    "paper": "When Thinking Backfires: Mechanistic Insights Into Reasoning-Induced Misalignment",
    "tags": ["effects", "neurons"],
    "takes": "a model before and after tuning, neurons, old and new texts",
    "returns": "Scores",
    "cost": "two forwards of every text",
}
SILENT_BELOW = (
    1e-6  # of the layers' mean size: a set that did not fire before has nothing to lose, and no relative growth
)


def reciprocal_shift(ds: np.ndarray, dt: np.ndarray) -> np.ndarray:
    """2 ds dt / (ds + dt), elementwise; 0 where both are 0."""
    total = np.asarray(ds + dt, dtype=float)
    return np.where(total > 0, 2 * ds * dt / np.where(total > 0, total, 1.0), 0.0)


def entanglement(  # noqa: PLR0913 - one experiment, fully stated
    before: Model,
    after: Model,
    neurons: Sequence[Site],
    old: Texts,
    new: Texts,
    *,
    n_random: int = 100,
    seed: int = 0,
) -> Scores:
    """Axis `set` ("neurons"): `score`, `control` (mean of random sets), `control_high` (95 % point), `p`; `ds`, `dt`, `size`.

    Raises InputError for no neurons, models of other shapes, or too few other neurons in a layer.
    """
    if (before.n_layers, before.d_mlp) != (after.n_layers, after.d_mlp) or not neurons:
        raise InputError("entanglement needs one neuron or more, and two checkpoints of one architecture")
    layers = before.layers_with("mlp_post")
    if not layers:
        before.tap("mlp_post", 0)  # says why no layer has them
    size = {
        (m, t): _size(model, texts) for m, model in enumerate((before, after)) for t, texts in enumerate((old, new))
    }
    mask = np.zeros((1, len(layers), before.d_mlp), dtype=bool)
    for site in neurons:
        mask[0, list(layers).index(site.layer or 0), list(site.units)] = True
    sets = np.concatenate([mask, _others(mask[0], n_random, seed)])
    ds, dt = (_change(size[0, t], size[1, t], sets, sign) for t, sign in ((0, -1), (1, 1)))
    score = reciprocal_shift(ds, dt)
    null = score[1:]
    columns = {
        "score": score[:1], "control": [null.mean()], "control_high": [np.quantile(null, 0.95)],
        "p": permutation_p(score[:1], null[:, None]), "ds": ds[:1], "dt": dt[:1], "size": [int(mask.sum())],
    }  # fmt: skip
    provenance = Provenance(
        "entanglement of neurons", len(before.encode(old)) + len(before.encode(new)), seed, after.name, after.revision,
        settings={"n_random": n_random}, passes=2 * (len(before.encode(old)) + len(before.encode(new))),
    )  # fmt: skip
    return Scores(xr.Dataset({n: ("set", v) for n, v in columns.items()}, coords={"set": ["neurons"]}), provenance)


def _size(model: Model, texts: Texts) -> np.ndarray:
    """Mean |activation| [layer, neuron] at the last position."""
    return model.capture(texts, "mlp_post")["mlp_post"].float().abs().mean(0).double().numpy()


def _others(mask: np.ndarray, n: int, seed: int) -> np.ndarray:
    drawn: np.ndarray = np.zeros((n, *mask.shape), dtype=bool)
    for axis in np.flatnonzero(mask.any(1)):
        shut = np.ones_like(mask)
        shut[axis] = mask[axis]
        if (~shut).sum() < mask[axis].sum():
            raise InputError(
                f"{int(mask[axis].sum())} neurons of one layer leave too few others to draw from; name fewer"
            )
        drawn |= random_sets(int(mask[axis].sum()), mask.shape, n, seed + int(axis), avoid=shut)
    return drawn


def _change(before: np.ndarray, after: np.ndarray, sets: np.ndarray, sign: int) -> np.ndarray:
    """Relative change [set] in the direction `sign`, at least 0."""
    had, has = ((sets * of).sum((1, 2)) for of in (before, after))
    fired = had > SILENT_BELOW * before.mean() * sets.sum((1, 2))
    return np.where(fired, np.clip(sign * (has - had) / np.where(fired, had, 1.0), 0.0, None), 0.0)
