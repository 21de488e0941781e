"""Where the relation of an analogy is readable: at the last word of `a is to b as c is to`, if the model solves it and if not.

The layer-wise probe reads the relation's name; all prompts with one pair (a, b) stay in one fold, so that a pair known by heart
does not count. Beside it the layer from which on the lens says the answer. Source: The Curious Case of Analogies (probes for
relational information); its patch-and-decode variant is not done here. Control: shuffled relations, as the layer-wise probe has
it. Cost: three forwards of the prompts and the probe's fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conceptlab.data.analogies import Analogy
from conceptlab.errors import DataError
from conceptlab.measure.lenses.logit_lens import logit_lens
from conceptlab.measure.probing.text_probe import probe_texts
from conceptlab.model import Model
from conceptlab.model.answers import first_tokens
from conceptlab.results import Scores

CARD = {
    "name": "relation probe",
    "paper": "The Curious Case of Analogies",
    "tags": ["probing", "depth", "analogy"],
    "takes": "a model, analogies",
    "returns": "Scores",
    "cost": "three forwards of the prompts",
}


@dataclass(frozen=True, eq=False)
class Attempts:
    """Analogies as prompts: real-token places of b and of the last word, answer ids, and which the model solves, [row]."""

    items: Sequence[Analogy]
    texts: list[str]
    b: np.ndarray
    last: np.ndarray
    ids: np.ndarray
    solved: np.ndarray

    def rows(self, solved: bool) -> np.ndarray:
        """Row numbers of what is solved, or fails."""
        return np.flatnonzero(self.solved == solved)


def attempt(model: Model, items: Sequence[Analogy]) -> Attempts:
    """Let the model complete every analogy. Raises InputError where an answer is no token that follows its prompt."""
    texts = [item.prompt for item in items]
    ids, batch = np.array(first_tokens(model, texts, [item.d for item in items])), model.encode(texts)
    b = np.array([own[-1] for own in batch.positions_of([item.b_span for item in items])])
    solved = model.logits(batch).argmax(-1).cpu().numpy() == ids
    return Attempts(items, texts, b, np.array(batch.lengths) - 1, ids, solved)


def relation_probe(
    model: Model, attempts: Attempts, *, solved: bool, permutations: int = 100, seed: int = 0
) -> Scores | DataError:
    """Held-out accuracy of the relation by layer (see `probe_texts`) where analogies are solved, or where they fail.

    Where relations are in too few pairs for folds it gives back the DataError that says so, since that is no fault of the input.
    """
    rows = attempts.rows(solved)
    items = [attempts.items[r] for r in rows]
    try:
        return probe_texts(
            model, [attempts.texts[r] for r in rows], [item.relation for item in items], attempts.last[rows].tolist(),
            groups=[f"{item.relation}: {item.a}, {item.b}" for item in items], permutations=permutations, seed=seed,
        )  # fmt: skip
    except DataError as error:
        return error


def answer_place(model: Model, attempts: Attempts) -> int:
    """The place on the layer axis (0: embedding) from which on the lens's first choice is the answer in half of the solved rows."""
    rows = attempts.rows(True)
    lens = logit_lens(model, [attempts.texts[r] for r in rows], attempts.ids[rows].tolist())
    said = (lens["target_rank"].values[..., 0] == 1).mean(1) >= 0.5
    return int(np.flip(np.logical_and.accumulate(np.flip(said))).argmax())
