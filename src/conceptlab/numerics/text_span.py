"""TextSpan: the few texts along which many vectors vary most, one after the other, each taken out of vectors and texts."""

from typing import NamedTuple

import torch
from torch import Tensor


class Span(NamedTuple):
    """`texts` [step]: the number of the text of each step (-1 when nothing varies any more), `explained` [step]: share of the
    vectors' variance that lay along it."""

    texts: Tensor
    explained: Tensor


def text_span(vectors: Tensor, texts: Tensor, n_steps: int = 5, *, rank: int = 80) -> Span:
    """Greedy spans of `vectors` [sample, d] by `texts` [text, d] (Gandelsman et al. 2024, algorithm 1).

    Vectors are centred, texts have length 1 and are projected onto the vectors' first `rank` right singular directions; at each
    step the text along which the vectors vary most is taken, and its direction is removed from both.
    """
    left = (vectors - vectors.mean(0)).double()
    whole = left.square().sum()
    texts = texts.double() / texts.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
    basis = torch.linalg.svd(left, full_matrices=False)[2][:rank]
    texts = texts @ basis.T @ basis
    taken, explained, free = [], [], torch.ones(len(texts), dtype=torch.bool, device=texts.device)
    for _ in range(n_steps):
        spread = (left @ texts.T).square().sum(0).masked_fill(~free, -1.0)
        best = int(spread.argmax())
        length = texts[best].norm()
        if float(spread[best]) <= 1e-12 * float(whole) or float(length) < 1e-6:
            taken.append(-1)
            explained.append(0.0)
            continue
        along = texts[best] / length
        part = left @ along
        taken.append(best)
        explained.append(float(part.square().sum() / whole))
        free[best] = False
        left = left - part[:, None] * along
        texts = texts - (texts @ along)[:, None] * along
    return Span(torch.tensor(taken), torch.tensor(explained, dtype=torch.float64))
