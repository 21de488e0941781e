"""Clean and corrupted texts, row by row of one length: the two runs of every patching method, and their two ends of a metric."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.measure.circuits.ends import TOO_CLOSE, Ends
from conceptlab.model import Batch, Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep.plain import plain_values

Direction = Literal["noising", "denoising"]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows that are changed (`base`) and rows that give values (`donor`): noising changes clean rows, denoising corrupted ones."""

    model: Model
    base: Batch
    donor: Batch
    direction: Direction

    @property
    def n_pos(self) -> int:
        """The one length of all rows. Raises InputError where rows differ, so that positions have no common meaning."""
        lengths = sorted(set(self.base.lengths))
        if len(lengths) > 1:
            raise InputError(
                f"rows have {lengths[0]} to {lengths[-1]} tokens, so a position means something else in each; patch rows of one "
                "length, or patch all positions, the last one, or positions counted from the end"
            )
        return lengths[0]

    def donated(self, site: str, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Values of `site` at all tokens, [token, layer, …] of the base and of the donor, rows one after the other."""
        found = []
        for batch in (self.base, self.donor):
            acts = self.model.capture(batch, site, layers=layers, positions="all")
            found.append(acts[site])
        return found[0], found[1]

    def ends(self, metric: Metric) -> Ends:
        """The metric of both runs. Raises InputError where they score alike or are not finite."""
        base, donor = (plain_values(self.model, batch, (), metric) for batch in (self.base, self.donor))
        clean, corrupted = (base, donor) if self.direction == "noising" else (donor, base)
        found = Ends(clean, corrupted)
        if not np.isfinite(clean).all() or not np.isfinite(corrupted).all():
            raise InputError(
                f"{metric.name} is NaN or infinite before anything is patched; look at the model's own logits first"
            )
        if abs(found.gap) < TOO_CLOSE:
            raise InputError(
                f"clean and corrupted texts score the same ({metric.name} differs by {found.gap:.1e} on average), so no effect is "
                "defined; corrupt what the answer depends on, or choose another metric"
            )
        return found

    def effect(self, ends: Ends, values: np.ndarray) -> np.ndarray:
        """Normalised effect [...] of `values` [..., row]: 0 nothing, 1 as much as changing everything."""
        return 1.0 - ends.share(values) if self.direction == "noising" else ends.share(values)

    def interval(self, ends: Ends, values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """95 % interval of the effect when pairs are drawn again."""
        low, high = ends.interval(values, seed=seed)
        return (1.0 - high, 1.0 - low) if self.direction == "noising" else (low, high)


def make_pairs(model: Model, clean: Texts, corrupted: Texts, direction: Direction) -> Pairs:
    """Check the pairs. Raises InputError where counts or token lengths differ, or the direction is unknown."""
    if direction not in ("noising", "denoising"):
        raise InputError(f'direction={direction!r} is not known; use "noising" (clean rows are changed) or "denoising"')
    ours, theirs = model.encode(clean), model.encode(corrupted)
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} clean texts came with {len(theirs)} corrupted ones; give one for each")
    for row, (a, b) in enumerate(zip(ours.lengths, theirs.lengths, strict=True)):
        if a != b:
            raise InputError(
                f"row {row}: the clean text has {a} tokens and the corrupted one {b}; pairs must have the same number, so that "
                "positions line up (swap words that are as many tokens)"
            )
    base, donor = (ours, theirs) if direction == "noising" else (theirs, ours)
    return Pairs(model, base, donor, direction)


def random_like(base: Tensor, donor: Tensor, generator: torch.Generator) -> Tensor:
    """`base` moved in a random direction by as much as `donor` is away, cell by cell of the last axis: the control of a patch."""
    away = torch.randn(base.shape, generator=generator).to(base)
    step = (donor - base).norm(dim=-1, keepdim=True) / away.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    return base + away * step
