"""Which neurons does an answer hang on? Gradients rank all of them, exact patching decides about the best.

Each prompt has a counterfactual of equal length with another answer. First order: (activation there - activation here) x gradient
of the metric at the last position, of every neuron from one backward; then the `n_exact` best of each layer are patched exactly,
one by one (noising at the last position; score: share of the metric's change that follows, beside the same step the other way).
Sources: Nanda 2023 (attribution patching); C11 of the arithmetic study of Nikankin et al. 2024, which patches at the last
position. What the first order misses is what is small there and large exactly (saturation): raise `n_exact` to all neurons to be
sure. Cost: two forwards, one backward, and a sweep of 2 x layers x n_exact edits over the rows.
"""

from collections.abc import Sequence

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.measure.patching.pairs import make_pairs
from conceptlab.model import Model
from conceptlab.model.gradients import gradients, in_groups
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Units

CARD = {
    "name": "answer neurons",
    "paper": "Nikankin et al. 2024; Nanda 2023 (attribution patching)",
    "tags": ["neurons", "patching", "attribution"],
    "takes": "a model, prompts with counterfactuals of equal length, a metric",
    "returns": "Units",
    "cost": "one backward, and a sweep of 2 x layers x n_exact edits",
}


def answer_neurons(
    model: Model,
    clean: Texts,
    counterfactual: Texts,
    metric: Metric,
    *,
    layers: Sequence[int] | None = None,
    n_exact: int = 200,
    seed: int = 0,
) -> Units:
    """The neurons that were patched exactly, `n_exact` a layer: `score` share of the metric's change (clean to counterfactual)
    that follows from the neuron alone, `control` the same for a step of equal size the other way, `p`, and `q` over all that were
    patched.

    Raises InputError for pairs of unequal length or a metric that does not change, SiteError where no layer has neurons.
    """
    before = model.forwards
    chosen = tuple(model.layers_with("mlp_post") if layers is None else layers)
    if not chosen or n_exact < 1:
        model.tap("mlp_post", 0)  # says why no layer has them
        raise InputError("no layers, or n_exact below 1, leave nothing to search; give both")
    first = first_order(model, clean, counterfactual, metric, chosen)  # [layer, neuron]
    parts = []
    for axis, layer in enumerate(chosen):
        best = np.sort(np.argsort(-np.abs(first[axis]), kind="stable")[:n_exact])
        found = activation_patching(
            model, clean, counterfactual, metric, site="mlp_post", by="neuron", layers=[layer], positions="last",
            units=best.tolist(), seed=seed,
        )  # fmt: skip
        parts.append((np.full(len(best), layer), best, *(found[name].values[0] for name in ("score", "control", "p"))))
    layer, index, score, control, p = (np.concatenate(column) for column in zip(*parts, strict=True))
    provenance = Provenance(
        "answer neurons", len(model.encode(clean)), seed, model.name, model.revision,
        settings={"layers": list(chosen), "n_exact": n_exact, "metric": metric.name, "n_searched": int(first.size)},
        passes=round(model.forwards - before), causal="patching",
    )  # fmt: skip
    return Units.from_arrays(
        "neuron", layer=layer, index=index, score=score, control=control, p=p, q=q_values(p), provenance=provenance
    )


def first_order(model: Model, clean: Texts, counterfactual: Texts, metric: Metric, layers: Sequence[int]) -> np.ndarray:
    """Mean over rows of (activation in the counterfactual - activation) x gradient at the last position, [layer, neuron]."""
    pairs = make_pairs(model, clean, counterfactual, "noising")
    places = [("mlp_post", layer) for layer in layers]
    donor = model.capture(pairs.donor, "mlp_post", layers=list(layers))["mlp_post"]  # [row, layer, neuron]
    total = torch.zeros(donor.shape[1:], dtype=torch.float64)
    for rows in in_groups(model, pairs.base, None, per_token=0, copies=2):
        found = gradients(model, pairs.base.select(rows), metric, places, rows=rows)
        for axis, place in enumerate(places):
            step = donor[rows, axis].double() - found.values[place][:, -1].double()
            total[axis] += (step * found.grads[place][:, -1].double()).sum(0).cpu()
    return (total / len(pairs.base)).numpy()
