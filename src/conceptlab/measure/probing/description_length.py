"""How many bits do the labels cost given the representation? Prequential (online) code length.

The rows arrive in blocks (0.1 % … 100 %); a probe trained on all earlier blocks pays the cross-entropy of the next one, the first
block pays log2 K a label. Compression = n log2 K / bits: it rewards good and quickly learned readouts in one number.
Source: Voita and Titov 2020, Information-Theoretic Probing with Minimum Description Length (online coding).
Departures: the probe is the L2-logistic one of every other score here (its C by the number of all rows), not an early-stopped
network; and while a class has not come yet, labels go on costing log2 K, since such a probe would be sure of something it
cannot know.
"""

from itertools import product

import numpy as np
import torch
from torch import Tensor

from conceptlab.measure.probing.columns import Kind, default_c
from conceptlab.numerics.linear_fit import Layers, Rotated, count_layers, fit_columns, rotated_layers

CARD = {
    "name": "description length",
    "paper": "Voita and Titov 2020",
    "tags": ["probing", "mdl"],
    "takes": "features [row, layer, d], labels",
    "returns": "Scores",
    "cost": "about two probe fits a layer, no model passes",
}
ENDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
CLAMP = 1e-6
SMALL = 64  # rows


def description_length(
    features: Layers,
    labels: np.ndarray,
    kind: Kind,
    *,
    control: np.ndarray | None = None,
    n_orders: int = 3,
    seed: int = 0,
) -> np.ndarray:
    """Compression [layer, labelling] of `labels` and of each row of `control` [draw, row] at every layer of `features`.

    Mean over `n_orders` shuffled orders. Graded labels have no code length here: NaN.
    """
    stacked = labels[None] if control is None else np.concatenate([labels[None], control])
    if kind == "graded":
        return np.full((count_layers(features), len(stacked)), np.nan)
    k = int(labels.max()) + 1
    rng = np.random.default_rng(seed)
    places = np.array([np.argsort(rng.permutation(len(labels))) for _ in range(n_orders)])
    bits = np.array([_bits(x, places, stacked, k) for x in rotated_layers(features)])
    return len(labels) * np.log2(k) / bits.mean(1)


def block_ends(n: int, k: int) -> list[int]:
    """Row counts at which the probe is trained anew; the first block holds at least two rows a class."""
    ends = sorted({max(2 * k, round(n * share)) for share in ENDS})
    return [e for e in ends if e < n] + [n]


def merged(ends: list[int]) -> list[list[int]]:
    """Block numbers that are fitted together: all the small ones (they cost calls, not arithmetic), then one by one."""
    blocks = range(len(ends) - 1)
    small = [b for b in blocks if ends[b] <= SMALL]
    return [small] * bool(small) + [[b] for b in blocks if ends[b] > SMALL]


def _bits(x: Rotated, places: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Bits [order, labelling] to send `labels` [labelling, row] when row i comes as number `places` [order, row]."""
    ends = block_ends(x.n, k)
    total = np.full((len(places), len(labels)), ends[0] * np.log2(k))
    hot = torch.nn.functional.one_hot(torch.from_numpy(labels.T.copy()).long(), k).float()
    targets = hot.flatten(1) if k > 2 else hot[..., 1]
    place, width = torch.from_numpy(places.T.copy()), targets.shape[1]
    for blocks in merged(ends):
        # columns: block x order x labelling (x class); a column sees the rows that came before its block
        starts = torch.tensor([ends[b] for b in blocks])
        rows = (place < starts.max()).any(1)
        seen = (place[rows, None, :] < starts[:, None]).flatten(1).float()
        y = targets[rows].repeat(1, seen.shape[1])
        fit = fit_columns(x.rows(rows), y, seen.repeat_interleave(width, 1), c=default_c(x.n, x.d), tol=1e-2)
        columns = zip(fit.u.split(width, 1), fit.b.split(width), strict=True)
        for (b, order), (u, bias) in zip(product(blocks, range(len(places))), columns, strict=True):
            new = (place[:, order] >= ends[b]) & (place[:, order] < ends[b + 1])
            known = hot[place[:, order] < ends[b]].any(0).all(-1).numpy()  # every class has come
            uniform = float(new.sum()) * np.log2(k)
            total[order] += np.where(known, _cost(x.z[new] @ u + bias, hot[new]), uniform)
    return total


def _cost(logits: Tensor, hot: Tensor) -> np.ndarray:
    """Bits [labelling] of `logits` [row, labelling * class] (two classes: one logit) for one-hot labels."""
    p = torch.sigmoid(logits)
    p = p.unflatten(1, hot.shape[1:]) if hot.shape[2] > 2 else torch.stack([1 - p, p], -1)
    own = (p / p.sum(-1, keepdim=True) * hot).sum(-1)
    return -own.clamp_min(CLAMP).log2().sum(0).double().numpy()
