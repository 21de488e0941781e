"""Which neurons carry a concept at the read position? Association of every neuron with the label, either sign, by one product.

Statistic: |correlation| with the label (two classes: point-biserial; graded: Pearson), or the square root of the share of variance
between classes (eta) for more. Shuffled labels give the null, pooled over all neurons; q is Benjamini-Hochberg over all of them.
Both signs count, since a neuron that falls silent carries as much (C4: average precision alone misses inverted units).
Cost: no model passes; 2 x rows x neurons x (1 + permutations) flops, in chunks of neurons.
"""

import numpy as np
import torch
from torch import Tensor

from conceptlab.evidence import pooled_p, q_values
from conceptlab.measure.probing.columns import Problem
from conceptlab.results import Provenance, Units

CARD = {
    "name": "readable neurons",
    "paper": "after Suau et al. 2020, Finding Experts in Transformer Models (expert units)",
    "tags": ["neurons"],
    "takes": "mlp_post [row, layer, d_mlp], labels",
    "returns": "Units",
    "cost": "no model passes beyond the capture",
}


def readable_neurons(post: Tensor, problem: Problem, layers: tuple[int, ...], provenance: Provenance) -> Units:
    """Rank every neuron of `post` [row, layer, d_mlp]; `layers` names the layer axis."""
    flat = post.flatten(1)
    parts = [association(chunk, problem) for chunk in flat.split(8192, dim=1)]
    scores = torch.cat(parts, 1).numpy()  # [draw, unit]
    p = pooled_p(scores[0], scores[1:])
    return Units.from_arrays(
        "neuron",
        layer=np.repeat(layers, post.shape[2]),
        index=np.tile(np.arange(post.shape[2]), len(layers)),
        score=scores[0],
        control=scores[1:].mean(0),
        p=p,
        q=q_values(p),
        provenance=provenance,
    )


def association(x: Tensor, problem: Problem) -> Tensor:
    """|correlation| or eta [draw, unit] of `x` [row, unit] with the labels of every draw; 0 for a constant unit."""
    x = x.float() - x.float().mean(0)
    spread = x.square().sum(0)
    dead = spread <= 1e-12 * spread.max().clamp_min(1e-30)
    if problem.n_classes == 1:
        y = problem.targets()
        y = (y - y.mean(0)) / (y - y.mean(0)).norm(dim=0).clamp_min(1e-12)
        found = (y.T @ x).abs() / spread.clamp_min(1e-30).sqrt()
    else:
        hot = problem.targets().unflatten(1, (len(problem.labels), problem.n_classes))
        sums = torch.einsum("nrk,nu->rku", hot, x)
        between = (sums.square() / hot.sum(0).clamp_min(1)[..., None]).sum(1)
        found = (between / spread.clamp_min(1e-30)).sqrt()
    return torch.where(dead, 0.0, found)
