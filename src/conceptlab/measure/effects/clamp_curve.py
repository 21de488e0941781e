"""What does it do to hold one neuron at a value while the model reads? Its word's log probability, value by value, beside others.

Values are multiples of what the neuron reaches by itself: the 99.9th percentile of its activation's size on the rows. Control: as
many as `n_random` other neurons held at the same value, one at a time. `kl` says what else changes. Source: Decoding specialised
feature neurons in LLMs with the final projection layer (2025). Cost: a forward, and a sweep of values x (1 + n_random) edits.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.model import Model
from conceptlab.model.metric import kl_from, log_prob
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "clamp curve",
    "paper": "Decoding specialised feature neurons in LLMs with the final projection layer (2025)",
    "tags": ["neurons", "effects"],
    "takes": "a model, texts, one neuron, one token",
    "returns": "Scores",
    "cost": "a sweep of values x (1 + n_random) edits",
}


def clamp_curve(
    model: Model,
    texts: Texts,
    neuron: Site,
    token: int,
    *,
    factors: Sequence[float] = (1.0, 2.0, 5.0, 10.0),
    n_random: int = 100,
    seed: int = 0,
) -> Scores:
    """Axis factor: `score` rise of log P(`token`) at the last position, nats (mean over rows, `low` and `high` 95 %), `control`
    mean over random neurons, `control_high` their largest, `p`, `q`, `value` (what was held), `kl` from the clean
    distribution. Raises InputError for no factors or a neuron that never fires, SiteError where the model has no such neuron.
    """
    batch, before = model.encode(texts), model.forwards
    model.check_edit(Edit(neuron, "zero"))
    size = reach(model, batch, neuron) if len(neuron.units) == 1 else 0.0
    if not factors or not size:
        raise InputError(f"{neuron} must be one neuron that fires on the texts, held at one factor or more")
    others = other_neurons(model, neuron, n_random, seed)
    held = [
        [Edit(site, "set", value=torch.tensor([factor * size])) for site in (neuron, *others)] for factor in factors
    ]
    found = sweep(model, batch, [edit for row in held for edit in row], log_prob([token] * len(batch)))
    rise = found.change.reshape(len(held), 1 + len(others), len(batch))
    kl = sweep(model, batch, [row[0] for row in held], kl_from(model.logits(batch))).values
    low, high = bootstrap_mean(rise[:, 0].T, n_resamples=400, seed=seed)
    null = rise[:, 1:].mean(2)
    p = permutation_p(rise[:, 0].mean(1), null.T)
    columns = {
        "score": rise[:, 0].mean(1), "low": low, "high": high, "control": null.mean(1), "control_high": null.max(1),
        "p": p, "q": q_values(p), "value": np.array(factors) * size, "kl": kl.mean(1),
    }  # fmt: skip
    data = xr.Dataset({name: ("factor", column) for name, column in columns.items()}, coords={"factor": list(factors)})
    data.attrs["clean"] = float(found.clean.mean())
    provenance = Provenance(
        "clamp curve", len(batch), seed, model.name, model.revision, causal="ablation", warnings=found.notes,
        settings={"neuron": str(neuron), "token": int(token), "n_random": n_random}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def reach(model: Model, texts: Texts, neuron: Site) -> float:
    """The 99.9th percentile of the size of a neuron's activation over all tokens of the texts."""
    fired = model.capture(texts, "mlp_post", layers=[neuron.layer or 0], positions="all")["mlp_post"]
    return float(np.quantile(np.abs(fired[:, 0, neuron.units[0]].float().cpu().numpy()), 0.999))


def other_neurons(model: Model, neuron: Site, n: int, seed: int) -> list[Site]:
    """`n` random other neurons of the model."""
    every = [
        (layer, unit)
        for layer in model.layers_with("mlp_post")
        for unit in range(int(model.tap("mlp_post", layer).width))
        if (layer, unit) != (neuron.layer, neuron.units[0])
    ]
    picked = np.random.default_rng(seed).choice(len(every), size=min(n, len(every)), replace=False)
    return [Site("mlp_post", every[i][0], (every[i][1],)) for i in picked.tolist()]
