"""Which tokens a direction speaks for: the unembedding along it, beside the best tokens of random directions.

score[v] = W_U[v] . g(d), g the final norm's gain (and centring), in standard deviations over the vocabulary; what the lens shows of
a step along the direction, without the norm's scale. Control: the best score of each of `DRAWS` random directions.
Cost: 1 + DRAWS products with the unembedding.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from conceptlab.measure.lenses.targets import exact_token_texts
from conceptlab.model.neuron_weights import end_gain
from conceptlab.web.jobs import Said
from conceptlab.web.live.fitting import check_fits
from conceptlab.web.live.one_pass import loaded

if TYPE_CHECKING:
    from conceptlab.results import Subspace

DRAWS, SHOWN, ROWS = 64, 12, 32_768


@dataclass(frozen=True, eq=False)
class NearestTokens:
    """`tokens` [side, rank] texts and `scores` [side, rank], the first side along the direction and the second against it; beside
    them the mean and the 95 % point of random directions' best, and `p` [side] of the best token."""

    tokens: np.ndarray
    scores: np.ndarray
    control: float
    control_high: float
    p: tuple[float, float]
    n_tokens: int


def nearest_tokens(live: Any, subspace: "Subspace", *, seed: int = 0) -> Generator[Said, None, NearestTokens]:
    """The nearest tokens of `subspace.vector`. Raises InputError where it is of another model, SiteError without unembedding."""
    model = yield from loaded(live)
    check_fits(model, subspace)
    subspace.check_exists()
    weight, gain = model.unembedding, end_gain(model)
    random = torch.randn(DRAWS, model.d_model, generator=torch.Generator().manual_seed(seed))
    steps = torch.cat([subspace.vector[None].float().cpu(), random / random.norm(dim=1, keepdim=True)])
    with torch.no_grad():
        moved = gain.of(steps.to(weight.device)).float().T
        parts = []
        for start in range(0, len(weight), ROWS):
            yield Said(start / len(weight), "the unembedding along the direction")
            parts.append((weight[start : start + ROWS].detach().float() @ moved).cpu())
    scores = torch.cat(parts)
    scores = (scores - scores.mean(0)) / scores.std(0).clamp_min(1e-12)
    best = torch.cat([scores[:, 1:].amax(0), -scores[:, 1:].amin(0)]).numpy()
    ends = [torch.topk(side, min(SHOWN, len(side))) for side in (scores[:, 0], -scores[:, 0])]
    ids = np.stack([end.indices.numpy() for end in ends])
    values = np.stack([end.values.numpy() for end in ends])
    first, second = (float((1 + (best >= side[0]).sum()) / (1 + len(best))) for side in values)
    return NearestTokens(
        exact_token_texts(model, ids),
        values,
        float(best.mean()),
        float(np.quantile(best, 0.95)),
        (first, second),
        len(scores),
    )
