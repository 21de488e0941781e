"""Does a model do a task at all? Its metric for each row's own answer, over the same for the answers of other rows.

What a model cannot do no head can be needed for: taking heads away then moves numbers that mean nothing. Control: answers dealt out
to other rows; p from exchanging own and other answers in any row (one-sided). Cost: one forward of the rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.model import Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts

CARD = {
    "name": "task ability",
    "paper": "after Hewitt and Liang 2019 (a task beside its control task)",
    "tags": ["effects"],
    "takes": "a model, texts, a metric",
    "returns": "Ability",
    "cost": "one forward of the texts",
}
DEALT = 20  # times the answers are dealt out


@dataclass(frozen=True)
class Ability:
    """Mean metric of rows with their `own` and with `other` answers, and `p` that own ones are better by chance."""

    own: float
    other: float
    p: float

    @property
    def there(self) -> bool:
        """Whether the model does the task (p <= 0.05)."""
        return self.p <= 0.05


@torch.no_grad()
def task_ability(model: Model, texts: Texts, metric: Metric, *, against: bool = False, seed: int = 0) -> Ability:
    """How much better `metric` is for each row's own answer; `against`: how much worse, for a task that something holds back."""
    batch, rng = model.encode(texts), np.random.default_rng(seed)
    where = "last" if metric.position == "last" else [metric.position]
    logits = model.logits(batch, positions=where)
    own = _of(metric, logits, np.arange(len(batch)))
    dealt = [_of(metric, logits, rng.permutation(len(batch))) for _ in range(DEALT)]
    other = np.mean(dealt, axis=0)
    gain = (other - own) if against else (own - other)
    return Ability(float(own.mean()), float(other.mean()), float(sign_flip_p(gain, seed=seed)))


def _of(metric: Metric, logits: torch.Tensor, rows: np.ndarray) -> np.ndarray:
    """The metric [row] of each row's logits for the answers of `rows`."""
    at = torch.from_numpy(rows)
    read = logits if metric.tokens is None else logits.gather(1, metric.tokens[at].to(logits.device))
    return metric.of(read.float(), at).double().cpu().numpy()
