"""How many bits do the labels cost given the representation? Prequential (online) code length.

The rows arrive in blocks (0.1 % … 100 %); a probe trained on all earlier blocks pays the cross-entropy of the next one, the first
block pays log2 K a label. Compression = n log2 K / bits: it rewards good and quickly learned readouts in one number.
Source: Voita and Titov 2020, Information-Theoretic Probing with Minimum Description Length (online coding).
Departure: the probe is the L2-logistic one of every other score here, not an early-stopped network.
"""

import numpy as np
import torch
from torch import Tensor

from conceptlab.measure.probing.columns import Kind
from conceptlab.numerics.linear_fit import Rotated, fit_columns, rotate

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


def description_length(
    features: Tensor,
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
        return np.full((features.shape[1], len(stacked)), np.nan)
    k = int(labels.max()) + 1
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(labels)) for _ in range(n_orders)]
    bits = np.array(
        [[_bits(features[o, layer], stacked[:, o], k) for o in orders] for layer in range(features.shape[1])]
    )
    return len(labels) * np.log2(k) / bits.mean(1)


def block_ends(n: int, k: int) -> list[int]:
    """Row counts at which the probe is trained anew; the first block holds at least two rows a class."""
    ends = sorted({max(2 * k, round(n * share)) for share in ENDS})
    return [e for e in ends if e < n] + [n]


def _bits(x: Tensor, labels: np.ndarray, k: int) -> np.ndarray:
    """Bits [labelling] to send `labels` [labelling, row] in the given order."""
    ends, rotated = block_ends(len(x), k), rotate(x)
    total = np.full(len(labels), ends[0] * np.log2(k))
    hot = torch.nn.functional.one_hot(torch.from_numpy(labels.T.copy()).long(), k).float()
    targets = hot.flatten(1) if k > 2 else hot[..., 1]
    for start, stop in zip(ends, ends[1:], strict=False):
        energy = rotated.energy * (start / len(x))
        part = Rotated(rotated.z[:start], energy, rotated.basis, rotated.mean, rotated.scale)
        fit = fit_columns(part, targets[:start], torch.ones(start, 1).expand(start, targets.shape[1]), c=1.0, tol=1e-2)
        logits = rotated.z[start:stop] @ fit.u + fit.b
        p = torch.sigmoid(logits)
        p = p.unflatten(1, (len(labels), k)) if k > 2 else torch.stack([1 - p, p], -1)
        own = (p / p.sum(-1, keepdim=True) * hot[start:stop]).sum(-1)
        total += -own.clamp_min(CLAMP).log2().sum(0).double().numpy()
    return total
