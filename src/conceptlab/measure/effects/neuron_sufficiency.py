"""Do these neurons suffice? All others of their layers are put to their mean at the last position.

faithfulness = (M with these alone - M with none) / (M as it is - M with none): 1 where nothing else is needed, and beyond where
the others worked against it. Control: random sets of as many neurons of the same layers (Wang et al. 2023, mean ablation; the
sets and the last position after Nikankin et al. 2024). Attention and earlier layers stay as they are. Cost: one forward and a
sweep of 2 + n_random edits a layer over the rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p
from conceptlab.measure.circuits.ends import TOO_CLOSE, Ends
from conceptlab.model import Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "sufficiency of neurons",
    "paper": "Wang et al. 2023; Nikankin et al. 2024",
    "tags": ["effects", "ablation", "neurons"],
    "takes": "a model, texts, a metric, neurons to keep, layers",
    "returns": "Scores",
    "cost": "one forward and a sweep of 2 + n_random sets",
}


def neuron_sufficiency(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    metric: Metric,
    kept: Sequence[Site],
    layers: Sequence[int],
    *,
    n_random: int = 10,
    seed: int = 0,
) -> Scores:
    """`score` faithfulness of `kept` among all neurons of `layers`, `low`, `high` (95 % over rows), `control` mean of random sets
    of as many, `control_high` their largest, `p`; axis draw: `random`. Attributes `whole`, `none`: the metric's means.

    Raises InputError where a kept neuron lies in another layer, or where the neurons of these layers do nothing to the metric.
    """
    batch, before = model.encode(texts), model.forwards
    means = model.capture(batch, "mlp_post", layers=list(layers))["mlp_post"].float().mean(0)  # [layer, neuron]
    mask = np.zeros(means.shape, dtype=bool)
    for site in kept:
        if site.layer is None or site.layer not in layers:
            raise InputError(f"{site} lies in none of the layers {list(layers)}; name its layer, too")
        mask[list(layers).index(site.layer), list(site.units)] = True
    rng = np.random.default_rng(seed)
    draws = [rng.permutation(mask.reshape(-1)).reshape(mask.shape) for _ in range(n_random)]
    sets = [mask, np.zeros_like(mask), *draws]
    found = sweep(model, batch, [_others(one, means, layers) for one in sets], metric)
    ends = Ends(found.clean, found.values[1])
    if abs(ends.gap) < TOO_CLOSE:
        raise InputError(
            f"the neurons of layers {list(layers)} do nothing to {metric.name} at the last position; nothing to explain"
        )
    share, random = float(ends.share(found.values[0])), ends.share(found.values[2:])
    low, high = ends.interval(found.values[:1], seed=seed)
    data = xr.Dataset(
        {"score": share, "low": float(low[0]), "high": float(high[0]), "control": float(random.mean()),
         "control_high": float(random.max()), "p": float(permutation_p(share, random)), "random": ("draw", random)},
        attrs={"whole": float(found.clean.mean()), "none": float(found.values[1].mean()), "size": int(mask.sum())},
    )  # fmt: skip
    provenance = Provenance(
        "sufficiency of neurons", len(batch), seed, model.name, model.revision, causal="ablation",
        settings={"layers": list(layers), "kept": int(mask.sum()), "n_random": n_random, "metric": metric.name},
        passes=round(model.forwards - before), warnings=found.notes,
    )  # fmt: skip
    return Scores(data, provenance)


def _others(kept: np.ndarray, means: torch.Tensor, layers: Sequence[int]) -> tuple[Edit, ...]:
    """Every neuron outside `kept` [layer, neuron] at its mean, one edit a layer."""
    edits = []
    for axis, layer in enumerate(layers):
        units = np.flatnonzero(~kept[axis]).tolist()
        if units:
            edits.append(
                Edit(Site("mlp_post", layer, tuple(units)), "mean", value=means[axis, units], positions="last")
            )
    return tuple(edits)
