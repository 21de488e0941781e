"""Which rows of the unembedding are words that the model learned: not those beyond the tokenizer, repeated, or left small.

Rows that training never touched win comparisons for no reason of meaning. A row is undertrained here when its log norm lies more
than `FAR` robust deviations below the median (a fixed lowest percentile would drop good words of small vocabularies).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.model.model import Model

FAR = 4.0


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`ids` of the rows that are kept, and by reason how many were left out."""

    ids: Tensor
    unused: int
    repeated: int
    undertrained: int

    def to_record(self) -> dict[str, int]:
        """Counts, plain."""
        counts = {"unused": self.unused, "repeated": self.repeated, "undertrained": self.undertrained}
        return {"kept": len(self.ids), **counts}


@torch.no_grad()
def learned_vocabulary(model: Model) -> Vocabulary:
    """The learned rows of the unembedding. Raises SiteError where the model has none."""
    rows = model.unembedding.detach()
    size = len(rows) if model.tokenizer is None else min(len(rows), len(model.tokenizer))
    norms = rows[:size].float().norm(dim=1)
    small = _small(norms)
    again = _repeated(rows[:size]) & ~small
    return Vocabulary(
        (~small & ~again).nonzero().flatten(), len(rows) - size, int(again.sum()), int(small.sum())
    )  # fmt: skip


def _small(norms: Tensor) -> Tensor:
    zero = norms <= 1e-6 * norms.median()
    logs = norms.clamp_min(1e-30).log()
    middle = logs[~zero].median() if bool((~zero).any()) else logs.median()
    spread = 1.4826 * (logs[~zero] - middle).abs().median() if bool((~zero).any()) else logs.new_zeros(())
    return zero | (logs < middle - FAR * spread.clamp_min(0.05))


def _repeated(rows: Tensor) -> Tensor:
    """Rows that say exactly what another row says: all of them, since none can be told apart."""
    flags = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    mark = rows.float() @ torch.linspace(0.5, 1.5, rows.shape[1], device=rows.device)  # equal rows have equal marks
    values, order = mark.sort()
    equal = values[1:] == values[:-1]
    for at in equal.nonzero().flatten().tolist():
        one, other = order[at], order[at + 1]
        if bool(torch.equal(rows[one], rows[other])):
            flags[one] = flags[other] = True
    return flags
