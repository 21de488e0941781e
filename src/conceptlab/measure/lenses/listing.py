"""Let a model list the answers to a question one by one, and lay out each step: text, places of subject and answers, tokens.

A step's text is the prompt with the answers so far written out, so that every step is a plain prompt and steps run batched.
Source: the protocol of Yan and Jia 2025, Promote, Suppress, Iterate. Departure: a question takes part in a step when all its
earlier answers were right and different; what it says at the step itself does not matter, or repetition could not be measured.
Cost: one short batched generation a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.data.questions import Question
from conceptlab.errors import DataError
from conceptlab.model import Model
from conceptlab.model.batch import Batch

STEPS = 3


@dataclass(frozen=True, eq=False)
class Step:
    """Questions `rows` with `said` [row][k] answers before it: `batch`, positions of `subject` and `said_at` [row], and first
    tokens of the `said` and `left` answers, [row, k] and [row, m] (-1: fewer)."""

    rows: tuple[int, ...]
    texts: tuple[str, ...]
    said: tuple[tuple[str, ...], ...]
    batch: Batch
    subject: list[list[int]]
    said_at: list[list[int]]
    said_ids: Tensor
    left_ids: Tensor


@dataclass(frozen=True, eq=False)
class Listing:
    """`order` [question]: the answers that a model listed, right and different, until it failed; `steps` that were reached."""

    questions: tuple[Question, ...]
    order: tuple[tuple[str, ...], ...]
    steps: dict[int, Step]

    @property
    def complete(self) -> list[int]:
        """Questions whose three answers were right and different."""
        return [i for i, order in enumerate(self.order) if len(order) == STEPS]


def list_answers(model: Model, questions: Sequence[Question], *, after: str = ",") -> Listing:
    """List greedily. Each answer is written with a space before and `after` behind it.

    Raises DataError where two answers of a question share their first token or the prompt's tokens change when an answer follows.
    """
    order: list[tuple[str, ...]] = [()] * len(questions)
    alive, steps = list(range(len(questions))), {}
    longest = max(len(ids) for ids in _continued(model, [(q.prompt, a) for q in questions for a in q.answers]))
    for step in range(1, STEPS + 1):
        if not alive:
            break
        steps[step] = _laid_out(model, questions, alive, order, after)
        said = model.generate(steps[step].texts, max_new_tokens=longest + 1)
        for row, text in zip(alive, said, strict=True):
            found = _answer(text, questions[row].answers)
            order[row] = (*order[row], found) if found and found not in order[row] else order[row]
        alive = [row for row in alive if len(order[row]) == step]
    return Listing(tuple(questions), tuple(order), steps)


def told(model: Model, questions: Sequence[Question], *, after: str = ",") -> Listing:
    """The same with the answers put into the model's mouth in the order of the data: for a model that lists too few by itself."""
    order = [q.answers[:STEPS] for q in questions]
    every = range(len(questions))
    steps = {k + 1: _laid_out(model, questions, list(every), [o[:k] for o in order], after) for k in range(STEPS)}
    return Listing(tuple(questions), tuple(order), steps)


def _answer(text: str, answers: Sequence[str]) -> str | None:
    """The longest answer that `text` begins with, whatever the case; None where it begins with none."""
    start = text.strip().casefold()
    for answer in sorted(answers, key=len, reverse=True):
        rest = start[len(answer) :]
        if start.startswith(answer.casefold()) and not rest[:1].isalnum():
            return answer
    return None


def _laid_out(
    model: Model, questions: Sequence[Question], rows: list[int], order: Sequence[tuple[str, ...]], after: str
) -> Step:
    texts, spans = [], []
    for row in rows:
        text, places = questions[row].prompt, []
        for answer in order[row]:
            places.append((len(text) + 1, len(text) + 1 + len(answer)))
            text += f" {answer}{after}"
        texts.append(text)
        spans.append(places)
    batch = model.encode(texts)
    starts = [questions[row].prompt.rindex(questions[row].subject) for row in rows]
    subject = batch.positions_of([(s, s + len(questions[row].subject)) for s, row in zip(starts, rows, strict=True)])
    each = [batch.positions_of([places[k] for places in spans]) for k in range(len(spans[0]))]
    said_at = [sorted({p for answer in each for p in answer[i]}) for i in range(len(rows))]
    said = tuple(tuple(order[row]) for row in rows)
    left = [[a for a in questions[row].answers if a not in order[row]] for row in rows]
    first = [_first_tokens(model, text, questions[row]) for text, row in zip(texts, rows, strict=True)]
    said_ids = _padded([[f[a] for a in s] for f, s in zip(first, said, strict=True)])
    left_ids = _padded([[f[a] for a in s] for f, s in zip(first, left, strict=True)])
    return Step(tuple(rows), tuple(texts), said, batch, subject, said_at, said_ids, left_ids)


def _first_tokens(model: Model, text: str, question: Question) -> dict[str, int]:
    """The first token of each answer as it continues `text`."""
    ids = _continued(model, [(text, answer) for answer in question.answers])
    found = {answer: tokens[0] for answer, tokens in zip(question.answers, ids, strict=True)}
    if len(set(found.values())) < len(found):
        names = sorted(found, key=lambda a: found[a])
        a, b = next((a, b) for a, b in zip(names, names[1:], strict=False) if found[a] == found[b])
        raise DataError(
            f"{question.subject!r}: the answers {a!r} and {b!r} share their first token, so nothing tells them apart; leave one out"
        )
    return found


def _continued(model: Model, pairs: Sequence[tuple[str, str]]) -> list[tuple[int, ...]]:
    """Tokens of each answer after its text."""
    before, whole = (
        model.encode([text for text, _ in pairs]),
        model.encode([f"{text} {answer}" for text, answer in pairs]),
    )
    found = []
    for (text, answer), start, ids in zip(pairs, before.ids, whole.ids, strict=True):
        if ids[: len(start)] != start or len(ids) == len(start):
            raise DataError(
                f"the tokens of {text[-40:]!r} change when {answer!r} follows; end the prompt at a word or a sign, without a space"
            )
        found.append(ids[len(start) :])
    return found


def _padded(ids: list[list[int]]) -> Tensor:
    """[row, most], -1 where a row has fewer."""
    width = max((len(row) for row in ids), default=0)
    return torch.tensor([row + [-1] * (width - len(row)) for row in ids], dtype=torch.long).reshape(len(ids), width)


def repeated(predicted: np.ndarray, said_ids: Tensor) -> np.ndarray:
    """Whether each predicted token [row, ...] begins an answer already said, [row, ...]."""
    said = said_ids.numpy().reshape(len(said_ids), *[1] * (predicted.ndim - 1), -1)
    return (predicted[..., None] == said).any(-1)
