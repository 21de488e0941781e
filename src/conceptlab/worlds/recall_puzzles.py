"""Matched puzzles: a fact that has to be known, and two sentences that have to be put together, in the same words.

A text is `<bos> s1 m1 . s2 m2 . m1 a1 . m2 a2 . MODE S`, its four sentences in any order, S one of the two subjects. After `know`
the answer is the fact of S, which the text does not say; after `find` it is the attribute that S's middle has in the text. Both
kinds share context, length, question and the set of their answers; they differ in one word. The corrupted twin asks for the other
subject. Neither subject's fact is said in its context.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from conceptlab.data.answer_pairs import AnswerPairs

SUBJECTS = (
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gia",
    "Hugo",
    "Iris",
    "Jon",
    "Kim",
    "Leo",
    "Mia",
    "Ned",
    "Ola",
    "Pia",
)
MIDDLES = (
    "ant",
    "bee",
    "cow",
    "dog",
    "elk",
    "fox",
    "goat",
    "hare",
    "ibis",
    "jay",
    "kite",
    "lark",
    "mole",
    "newt",
    "owl",
    "pig",
)
ATTRIBUTES = ("amber", "blue", "coral", "dun", "ebony", "fawn", "green", "henna", "ivory", "jade", "khaki", "lilac", "mauve",
              "navy", "olive", "pink")  # fmt: skip
MODES = {"recall": "know", "reasoning": "find"}
STOP = "."


class Asked(Protocol):
    """A context that both tasks ask about, and with `other` about another subject of it."""

    def text(self, task: str, *, other: bool = False) -> str: ...
    def answer(self, task: str, facts: list[int], *, other: bool = False) -> str: ...


@dataclass(frozen=True)
class Puzzle:
    """Two subjects with their middles and attributes (numbers of words), the order of the four sentences, and whose answer is
    asked."""

    subjects: tuple[int, int]
    middles: tuple[int, int]
    attributes: tuple[int, int]
    order: tuple[int, ...]
    asked: int

    def text(self, task: str, *, other: bool = False) -> str:
        """The prompt of one task, with `other` that of the other subject."""
        s, m, a = self.subjects, self.middles, self.attributes
        said = [f"{SUBJECTS[s[i]]} {MIDDLES[m[i]]} {STOP}" for i in (0, 1)]
        said += [f"{MIDDLES[m[i]]} {ATTRIBUTES[a[i]]} {STOP}" for i in (0, 1)]
        asked = 1 - self.asked if other else self.asked
        return " ".join([*(said[i] for i in self.order), MODES[task], SUBJECTS[s[asked]]])

    def answer(self, task: str, facts: list[int], *, other: bool = False) -> str:
        """The next word of that prompt, with `facts` [subject] the known attributes."""
        asked = 1 - self.asked if other else self.asked
        return ATTRIBUTES[facts[self.subjects[asked]] if task == "recall" else self.attributes[asked]]


def words(n_kinds: int) -> tuple[str, ...]:
    """The vocabulary with `n_kinds` subjects, middles and attributes."""
    return (*SUBJECTS[:n_kinds], *MIDDLES[:n_kinds], *ATTRIBUTES[:n_kinds], *MODES.values(), STOP)


def make_puzzles(n: int, facts: list[int], rng: np.random.Generator) -> list[Puzzle]:
    """`n` puzzles over as many subjects, middles and attributes as there are `facts` (at least 4); subjects are asked in turn."""
    kinds, found = len(facts), []
    for row in range(n):
        asked, other = row % kinds, int(rng.integers(1, kinds))
        place = int(rng.integers(2))
        beside = (asked + other) % kinds
        subjects = (asked, beside) if place == 0 else (beside, asked)
        free = [a for a in range(kinds) if a not in (facts[subjects[0]], facts[subjects[1]])]
        m, a = rng.choice(kinds, 2, replace=False).tolist(), rng.choice(free, 2, replace=False).tolist()
        order = rng.random(4).argsort().tolist()
        found.append(Puzzle(subjects, (m[0], m[1]), (a[0], a[1]), tuple(order), place))
    return found


def pairs_of(puzzles: Sequence[Asked], task: str, facts: list[int], *, answered_as: str = "") -> AnswerPairs:
    """One task of the puzzles as clean and corrupted texts; `answered_as` takes the answers of another task."""
    as_task = answered_as or task
    return AnswerPairs(
        task,
        clean=tuple(p.text(task) for p in puzzles),
        corrupted=tuple(p.text(task, other=True) for p in puzzles),
        answer=tuple(p.answer(as_task, facts) for p in puzzles),
        distractor=tuple(p.answer(as_task, facts, other=True) for p in puzzles),
    )
