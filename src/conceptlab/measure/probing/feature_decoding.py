"""Which features of concepts (is red, has wheels) can be read from their vectors? One probe a feature, AUC on other concepts.

Source: Xu et al. 2024, On the Tip of the Tongue. Departures: five folds in place of ten, C by the house's rule, not by a search,
and features that fewer than 5 concepts have (or lack) are left out. Control: the same on features dealt anew to the concepts.
Cost: no model passes; folds x layers fits a feature.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import make_folds, permutation_p, permuted_labels, q_values
from conceptlab.measure.probing.columns import Problem
from conceptlab.measure.probing.layer_probe import held_out_scores
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "feature decoding",
    "paper": "Xu et al. 2024, On the Tip of the Tongue",
    "tags": ["probing", "features"],
    "takes": "concept vectors [concept, layer, d], features of each concept",
    "returns": "Scores",
    "cost": "no model passes",
}
FEWEST = 5


def feature_decoding(
    vectors: Tensor, features: Sequence[Sequence[str]], *, permutations: int = 20, seed: int = 0, model: str = ""
) -> Scores:
    """AUC of each feature from `vectors` [concept, layer, d] at every layer; axes (feature, layer).

    `features` [concept] are names. `score`, `control`, `control_high`, and `best` [feature] (largest over layers) with `p`, `q`
    against the largest over layers of dealt features. Raises InputError where counts differ or no feature is common enough.
    """
    if len(features) != len(vectors):
        raise InputError(f"{len(features)} lists of features came for {len(vectors)} concepts; give one a concept")
    names = sorted({name for own in features for name in own})
    has = np.array([[name in set(own) for own in features] for name in names], dtype=int).reshape(
        len(names), len(vectors)
    )
    kept = [i for i, row in enumerate(has) if FEWEST <= row.sum() <= len(row) - FEWEST]
    if not kept:
        raise InputError(f"none of {len(names)} features is had and lacked by {FEWEST} concepts; give more concepts")
    found = []
    for i in kept:
        folds = make_folds(has[i], None, seed=seed)
        shuffled = permuted_labels(has[i], None, permutations, seed + 1, folds=folds)
        found.append(
            held_out_scores(vectors, Problem(np.concatenate([has[i][None], shuffled]), folds, "binary", "auc"))[0]
        )
    by_layer = np.stack(found)  # [feature, layer, draw]
    best = by_layer.max(1)
    p = np.array([float(permutation_p(one[0], one[1:])) for one in best])
    dims = ("feature", "layer")
    columns = {
        "score": (dims, by_layer[..., 0]), "control": (dims, by_layer[..., 1:].mean(-1)),
        "control_high": (dims, np.quantile(by_layer[..., 1:], 0.95, axis=-1)), "best": ("feature", best[:, 0]),
        "best_control": ("feature", best[:, 1:].mean(1)), "p": ("feature", p), "q": ("feature", q_values(p)),
    }  # fmt: skip
    layers = ["embed", *map(str, range(by_layer.shape[1] - 1))]
    data = xr.Dataset(columns, coords={"feature": [names[i] for i in kept], "layer": layers})
    return Scores(
        data, Provenance("feature decoding", len(vectors), seed, model, settings={"permutations": permutations})
    )
