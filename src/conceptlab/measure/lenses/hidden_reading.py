"""Steps below the fillers at one layer: chosen on half of the texts, measured on the other half.

The layer with the highest share of true steps is as good as it is partly by chance; so the texts it was chosen on say nothing more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from conceptlab.errors import InputError
from conceptlab.measure.lenses.hidden_chain import hidden_chain
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.results import Scores

FEWEST = 8  # texts below which there is nothing to choose a layer on


@dataclass(frozen=True, eq=False)
class ChainCase:
    """A model with texts that hold fillers, the steps [row][filler] they stand for, and the answers [row], all as token ids.

    `guess` is the share of answers that a guess without steps gets right, where that is known.
    """

    model: Model
    texts: Batch
    steps: Sequence[Sequence[int]]
    answers: Sequence[int]
    filler: int
    skip: Sequence[int] = ()
    guess: float | None = None

    def rows(self, chosen: Sequence[int]) -> "ChainCase":
        """The same of some texts."""
        return replace(
            self,
            texts=self.texts.select(chosen),
            steps=[self.steps[i] for i in chosen],
            answers=[self.answers[i] for i in chosen],
        )


@dataclass(frozen=True, eq=False)
class Reading:
    """The `layer` chosen on one half of the texts; the other half (`case`), and its hidden-chain lens."""

    case: ChainCase
    layer: str
    lens: Scores

    def at(self, name: str, layer: str | None = None) -> float:
        """One number of the chosen layer, or of another."""
        return float(self.lens[name].sel(layer=self.layer if layer is None else layer))


def read_half(case: ChainCase, *, n_shuffles: int = 199, seed: int = 0) -> Reading:
    """Choose the layer on one half, drawn by `seed`, and read the other.

    Raises InputError as `hidden_chain` does, and for fewer than eight texts.
    """
    if len(case.texts) < FEWEST:
        raise InputError(f"{len(case.texts)} texts came; a layer is chosen on half of them, so give at least {FEWEST}")
    order = np.random.default_rng(seed).permutation(len(case.texts))
    parts = [case.rows(sorted(half.tolist())) for half in np.array_split(order, 2)]
    chosen_on, lens = (
        hidden_chain(p.model, p.texts, p.steps, filler=p.filler, skip=p.skip, n_shuffles=n_shuffles, seed=seed)
        for p in parts
    )
    best = int(chosen_on["score"].values.argmax())
    return Reading(parts[1], str(lens["layer"].values[best]), lens)
