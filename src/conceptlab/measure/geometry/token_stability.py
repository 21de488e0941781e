"""Do neurons keep the word that they point at when a model is tuned? Base against tuned, neuron by neuron.

Share of neurons whose top token stays the same. Control: every neuron against another neuron of its layer in the tuned model.
Source: Decoding specialised feature neurons in LLMs with the final projection layer (2025). Cost: none beyond the two maps.
"""

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.results import Provenance, Scores, Units

CARD = {
    "name": "stability of neurons' tokens",
    "paper": "Decoding specialised feature neurons in LLMs with the final projection layer (2025)",
    "tags": ["neurons", "weights"],
    "takes": "the vocabulary neurons of a model and of its tuned form",
    "returns": "Scores",
    "cost": "no model passes",
}


def token_stability(base: Units, tuned: Units, *, n_random: int = 20, seed: int = 0) -> Scores:
    """Axis set, `all` neurons and those that are `specialised` in the base model (q <= 0.05): `score` share that keep their top
    token, `low`, `high` (95 %, neurons drawn again), `control` the same against other neurons of the layer, `size`. By layer:
    `by_layer`. Raises InputError where the two do not hold the same neurons and words.
    """
    one, other = base.table, tuned.table
    for name in ("layer", "index"):
        if one.sizes["unit"] != other.sizes["unit"] or (one[name].values != other[name].values).any():
            raise InputError("the two models do not have the same neurons; give a model and what was tuned from it")
    layers = one["layer"].values
    first, second = one["ids"].values[:, 0, 0], other["ids"].values[:, 0, 0]
    same = (first == second).astype(float)
    chance, rng = np.zeros(len(same)), np.random.default_rng(seed)
    for _ in range(n_random):
        for layer in np.unique(layers):
            mine = np.flatnonzero(layers == layer)
            chance[mine] += first[mine] == second[np.roll(rng.permutation(mine), 1)][np.argsort(np.argsort(mine))]
    masks = {"all": np.ones(len(same), dtype=bool), "specialised": one["q"].values <= 0.05}
    rows = [_row(same[mask], chance[mask] / n_random, seed) for mask in masks.values()]
    data = xr.Dataset(
        {name: ("set", np.array(column)) for name, column in zip(("score", "low", "high", "control", "size"),
                                                                 zip(*rows, strict=True), strict=True)}
        | {"by_layer": ("layer", np.array([same[layers == layer].mean() for layer in np.unique(layers)]))},
        coords={"set": list(masks), "layer": np.unique(layers)},
    )  # fmt: skip
    models = f"{base.scores.provenance.model} and {tuned.scores.provenance.model}"
    return Scores(data, Provenance("stability of neurons' tokens", len(same), seed, models))


def _row(same: np.ndarray, chance: np.ndarray, seed: int) -> tuple[float, float, float, float, int]:
    if not len(same):
        return np.nan, np.nan, np.nan, np.nan, 0
    low, high = bootstrap_mean(same, n_resamples=400, seed=seed)
    return float(same.mean()), float(low), float(high), float(chance.mean()), len(same)
