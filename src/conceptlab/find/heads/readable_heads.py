"""Which heads carry a concept at the read position? Held-out readability of each head's output, over every head of the model.

One ridge probe per head on its `z`, on the same group-aware folds as the layer probe; all heads and all shuffled labels are solved
together through [d_head, d_head] Cholesky factors. p values come from the null pooled over all heads, q is Benjamini-Hochberg
over all heads searched. Correlational: ablation says whether the model uses them.
Cost: no model passes; layers x heads x folds factorisations of d_head x d_head.
"""

import numpy as np
import torch
from torch import Tensor

from conceptlab.evidence import pooled_p, q_values
from conceptlab.measure.probing.columns import Problem, score
from conceptlab.results import Provenance, Units

CARD = {
    "name": "readable heads",
    "paper": "after Li et al. 2023, Inference-Time Intervention (a probe on each head)",
    "tags": ["heads", "probing"],
    "takes": "z [row, layer, head, d_head], labels",
    "returns": "Units",
    "cost": "no model passes beyond the capture",
}


def readable_heads(z: Tensor, problem: Problem, layers: tuple[int, ...], provenance: Provenance) -> Units:
    """Rank every head of `z` [row, layer, head, d_head] by held-out score; `layers` names the layer axis."""
    n_heads = z.shape[2]
    found = [_layer_scores(z[:, axis], problem) for axis in range(len(layers))]
    scores = np.concatenate(found)  # [layer * head, draw]
    p = pooled_p(scores[:, 0], scores[:, 1:].T)
    return Units.from_arrays(
        "head",
        layer=np.repeat(layers, n_heads),
        index=np.tile(np.arange(n_heads), len(layers)),
        score=scores[:, 0],
        control=scores[:, 1:].mean(1),
        p=p,
        q=q_values(p),
        provenance=provenance,
    )


def _layer_scores(z: Tensor, problem: Problem) -> np.ndarray:
    """Held-out score [head, draw] of one layer's heads, mean over folds."""
    x = z.float().transpose(0, 1)  # [head, row, d_head]
    x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True).clamp_min(1e-8)
    y = problem.targets()
    total = np.zeros((x.shape[0], len(problem.labels)))
    for fold in range(problem.n_folds):
        rows = np.flatnonzero(problem.folds == fold)
        train = torch.from_numpy(problem.folds != fold)
        predicted = _ridge(x[:, train], y[train], x[:, ~train])  # [head, row, column]
        for head, values in enumerate(predicted):
            shaped = values.unflatten(1, (len(problem.labels), problem.n_classes))
            total[head] += score(problem, rows, shaped).double().numpy() * len(rows)
    return total / len(problem.folds)


def _ridge(x: Tensor, y: Tensor, held: Tensor) -> Tensor:
    """Predictions [head, held row, column] of ridge probes (penalty 1 % of the rows), centred so that 0 separates two classes."""
    center = x.mean(1, keepdim=True)
    x, held = x - center, held - center
    gram = x.transpose(1, 2) @ x + 0.01 * x.shape[1] * torch.eye(x.shape[2]).to(x)
    factor = torch.linalg.cholesky(gram)
    weights = torch.cholesky_solve(x.transpose(1, 2) @ (y - y.mean(0)), factor)
    return held @ weights + (y.mean(0) - 0.5)
