"""Do detectors of heads point at what the model uses? Their scores beside causal ablation, role by role, from one head atlas.

Of the heads without which the role's task loses (q <= 0.05, loss above 0), how much higher does the detector score them than the
others: the area under the ROC curve, and the rank correlation of score and loss. Control: heads dealt out again (0.5 and 0 on
average). A low number need not speak against a detector: many heads work for others, and redundant ones lose nothing alone. Source:
Zheng et al. 2024, Attention Heads of Large Language Models: A Survey (modelling-free and modelling-required discovery, compared).
Cost: none.
"""

import numpy as np
import torch
import xarray as xr
from scipy.stats import rankdata

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.numerics.ranks import auc, pearson
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "agreement of detectors with ablation",
    "paper": "Zheng et al. 2024, Attention Heads of Large Language Models: A Survey",
    "tags": ["heads", "survey", "ablation"],
    "takes": "a head atlas",
    "returns": "Scores",
    "cost": "none",
}
Q_MAX = 0.05


def detector_agreement(atlas: Scores, *, n_shuffles: int = 999, seed: int = 0) -> Scores:
    """By `role` (those with a task in the atlas): `score` the AUC (NaN where ablation finds no head, or every one), `control` its
    mean over shuffled heads, `control_high` (95 %), `p`, `q`; `rank` the rank correlation; `searched`, `listed`, `needed` (by
    ablation), `both` count heads. Raises InputError for an atlas without tasks.
    """
    data, tasks = atlas.data, atlas.data["task"].values.tolist() if "task" in atlas.data.dims else []
    roles = [i for i, task in enumerate(data["task_of"].values.tolist()) if task in tasks]
    if not roles:
        raise InputError(
            "this head atlas holds no task of a role, so there is no ablation to compare with; make it with ablate=True"
        )
    rng, rows = np.random.default_rng(seed), []
    for i in roles:
        at = tasks.index(str(data["task_of"].values[i]))
        rows.append(_compared(data, i, at, n_shuffles, rng))
    names = ("score", "control", "control_high", "p", "rank", "searched", "listed", "needed", "both")
    columns = dict(zip(names, np.array(rows, dtype=float).T, strict=True))
    table = xr.Dataset(
        {name: ("role", column) for name, column in columns.items()}, coords={"role": data["role"].values[roles]}
    )
    asked = np.isfinite(columns["p"])
    q = np.full(len(rows), np.nan)
    q[asked] = q_values(columns["p"][asked])
    table["q"] = ("role", q)
    made = atlas.provenance
    provenance = Provenance(
        "agreement of detectors with ablation", int(columns["searched"].max()), seed, made.model, made.revision,
        settings={"n_shuffles": n_shuffles}, causal="ablation",
    )  # fmt: skip
    return Scores(table, provenance)


def _compared(data: xr.Dataset, role: int, task: int, n_shuffles: int, rng: np.random.Generator) -> tuple[float, ...]:
    score, loss = data["score"].values[role], data["loss"].values[task]
    there = np.isfinite(score) & np.isfinite(loss)
    needed = ((data["loss_q"].values[task] <= Q_MAX) & (loss > 0))[there]
    listed = data["label"].values[role][there] > 0
    score, loss = score[there], loss[there]
    counts = (len(score), listed.sum(), needed.sum(), (listed & needed).sum())
    orders = np.stack([np.arange(len(score)), *(rng.permutation(len(score)) for _ in range(n_shuffles))], 1)
    decision = torch.from_numpy(score[:, None]).expand(-1, orders.shape[1]).contiguous()
    found = auc(decision, torch.from_numpy(needed[orders].astype(float))).numpy()
    rank = float(pearson(*(torch.from_numpy(rankdata(x))[:, None] for x in (score, loss)))[0])
    if not 0 < needed.sum() < len(score):
        return (np.nan, np.nan, np.nan, np.nan, rank, *counts)
    p = float(permutation_p(found[0], found[1:]))
    return (found[0], found[1:].mean(), np.quantile(found[1:], 0.95), p, rank, *counts)
