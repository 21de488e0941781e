"""Which neurons fire otherwise on texts than on their counterfactuals, in every resample of the pairs?

Score: mean over pairs of (activation on the changed text - activation on the plain one) at the last position; p from random signs
of whole pairs, pooled over all neurons, q over all of them. `stable` are those among the `share` largest in each of `n_samples`
resamples of half of the pairs (R5 of the methods' specification, where D~ is D rewritten so that it is refused).
Control: random signs of the pairs. Cost: one forward of both texts of every pair.
"""

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.find.detector import Scored, ranked
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Site, Units

CARD = {
    "name": "contrast neurons",
    "paper": "When Thinking Backfires: Mechanistic Insights Into Reasoning-Induced Misalignment",
    "tags": ["neurons"],
    "takes": "a model, texts and their counterfactuals",
    "returns": "Units",
    "cost": "one forward of both texts of every pair",
}


def contrast_neurons(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    changed: Texts,
    plain: Texts,
    *,
    share: float = 0.01,
    n_samples: int = 5,
    n_signs: int = 100,
    seed: int = 0,
) -> Units:
    """Rank every neuron by how much more it fires at the last position of `changed` than of `plain`, row by row.

    The table also has `stable` [unit]. Raises InputError where the texts are no pairs, SiteError where no layer has neurons.
    """
    ours, theirs, before = model.encode(changed), model.encode(plain), model.forwards
    if len(ours) != len(theirs) or len(ours) < 4:
        raise InputError(
            f"{len(ours)} changed texts and {len(theirs)} plain ones; give four pairs or more, one of each a pair"
        )
    layers = model.layers_with("mlp_post")
    if not layers:
        model.tap("mlp_post", 0)  # says why no layer has them
    fired = [model.capture(batch, "mlp_post", layers=list(layers))["mlp_post"].float() for batch in (ours, theirs)]
    more = (fired[0] - fired[1]).flatten(1).double()  # [pair, unit]
    rng = np.random.default_rng(seed)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], (n_signs, len(more))))
    null = (signs @ more / len(more)).numpy()
    stable = _stable(more, share, n_samples, rng)
    shape = (len(layers), fired[0].shape[2])
    provenance = Provenance(
        "contrast neurons", len(ours), seed, model.name, model.revision,
        settings={"share": share, "n_samples": n_samples, "n_signs": n_signs}, passes=round(model.forwards - before),
    )  # fmt: skip
    wide = np.full((model.n_layers, shape[1]), np.nan)
    drawn = np.full((n_signs, *wide.shape), np.nan)
    wide[list(layers)], drawn[:, list(layers)] = more.mean(0).numpy().reshape(shape), null.reshape(n_signs, *shape)
    kept = np.zeros(wide.shape, dtype=bool)
    kept[list(layers)] = stable.reshape(shape)
    return ranked("neuron", Scored(wide, drawn, len(ours), more={"stable": kept}), provenance)


def _stable(more: torch.Tensor, share: float, n_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Neurons among the largest in every resample; never one that does not fire more."""
    k = max(1, round(share * more.shape[1]))
    kept = np.ones(more.shape[1], dtype=bool)
    for _ in range(n_samples):
        mean = more[rng.choice(len(more), max(2, len(more) // 2), replace=False)].mean(0).numpy()
        best = np.argsort(-mean, kind="stable")[:k]
        kept &= np.isin(np.arange(len(kept)), best) & (mean > 0)
    return kept


def stable_neurons(units: Units) -> list[Site]:
    """The stable ones as sites."""
    table = units.table
    at = np.flatnonzero(table["stable"].values)
    return [Site("mlp_post", int(table["layer"].values[i]), (int(table["index"].values[i]),)) for i in at]
