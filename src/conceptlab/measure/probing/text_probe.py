"""Probe a label of texts at one position of each, by layer: capture, folds, null and curve of the layer-wise probe in one call.

Cost: one forward of the texts, then the fits of `layer_probe`.
"""

from collections.abc import Sequence

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.evidence import make_folds, permuted_labels
from conceptlab.measure.probing.columns import Problem, choose_metric
from conceptlab.measure.probing.layer_probe import probe_layers
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores


def probe_texts(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    labels: Sequence[str],
    positions: Sequence[int],
    *,
    groups: Sequence[str] | None = None,
    permutations: int = 20,
    seed: int = 0,
) -> Scores:
    """Held-out score of `labels` [row] (names) from the stream at position `positions` [row], by layer (`embed`, 0, ...).

    Axis layer: `score low high control control_low control_high` of `probe_layers`. Attributes: the `nested` score (the layer
    chosen on other folds; `low`, `high`), its mean under shuffled labels (`chance`) and `p`; `best`, the place of the best layer;
    `metric`. `groups` [row] stay in one fold. Raises InputError for counts that differ, DataError where folds are not possible.
    """
    batch, before = model.encode(texts), model.forwards
    if not len(batch) == len(labels) == len(positions):
        raise InputError(
            f"{len(batch)} texts, {len(labels)} labels and {len(positions)} positions; give one of each a row"
        )
    ids = np.unique(np.asarray(labels), return_inverse=True)[1]
    together = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    folds = make_folds(ids, together, seed=seed)
    shuffled = permuted_labels(ids, together, permutations, seed + 1, folds=folds)
    kind = "binary" if ids.max() == 1 else "classes"
    problem = Problem(np.concatenate([ids[None], shuffled]), folds, kind, choose_metric(ids, kind))
    acts = model.capture(batch, ["embed", "resid_post"], positions=[[p] for p in positions])
    features = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1).float().cpu()
    names = ["embed", *map(str, range(model.n_layers))]
    found = probe_layers(features, problem, together, layer_names=names, seed=seed)
    data = found.curve
    data.attrs = {
        "nested": found.score, "chance": found.control, "p": found.p, "best": found.best_layer, "metric": found.metric,
        "low": found.interval[0], "high": found.interval[1],
    }  # fmt: skip
    provenance = Provenance(
        "layer-wise probe", len(batch), seed, model.name, model.revision,
        settings={"permutations": permutations}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)
