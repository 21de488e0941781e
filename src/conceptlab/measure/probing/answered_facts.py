"""What a model answers to questions about facts, sorted into right answers and two kinds of errors.

`associated`: the wrong answer is one that goes with the subject in the world's texts, `detached`: it does not. The sorting uses the
data alone, never the model's inside, so that what is then measured inside is no consequence of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from conceptlab.data.fact_queries import FactQuery
from conceptlab.errors import InputError
from conceptlab.model import Batch, Model
from conceptlab.model.answers import first_tokens

KINDS = ("correct", "associated", "detached")


@dataclass(frozen=True, eq=False)
class AnsweredFacts:
    """`batch` of prompts; of each row the token that is `said`, its `confidence`, its `kind` (number of `KINDS`), the real-token
    positions of its `subject`, and the number of the subject (`groups`)."""

    batch: Batch
    said: np.ndarray
    confidence: np.ndarray
    kind: np.ndarray
    subject: list[list[int]]
    groups: np.ndarray

    def rows(self, kind: str) -> np.ndarray:
        """Row numbers of one kind."""
        return np.flatnonzero(self.kind == KINDS.index(kind))

    def subjects(self, kind: str) -> int:
        """How many subjects one kind has."""
        return len(np.unique(self.groups[self.rows(kind)]))


def answer_facts(model: Model, queries: Sequence[FactQuery]) -> AnsweredFacts:
    """Ask every question once. Cost: one forward. Raises InputError for no question, or an answer the tokenizer does not know."""
    if not queries:
        raise InputError("no questions came; give prompts with subject and answer")
    texts = [q.prompt for q in queries]
    batch = model.encode(texts)
    probabilities: Tensor = model.logits(batch).float().softmax(-1).cpu()
    confidence, said = (v.numpy() for v in probabilities.max(-1))
    true = np.array(first_tokens(model, texts, [q.answer for q in queries]))
    pairs = [(row, other) for row, q in enumerate(queries) for other in q.associated]
    ids = first_tokens(model, [texts[r] for r, _ in pairs], [o for _, o in pairs]) if pairs else []
    goes_with = np.zeros(len(queries), dtype=bool)
    for (row, _), token in zip(pairs, ids, strict=True):
        goes_with[row] |= said[row] == token
    kind = np.where(said == true, 0, np.where(goes_with, 1, 2))
    groups = np.unique([q.subject for q in queries], return_inverse=True)[1]
    return AnsweredFacts(batch, said, confidence, kind, batch.positions_of([q.span for q in queries]), groups)
