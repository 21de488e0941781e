"""Matched puzzles about four people in a line: a fact that has to be known, and three sentences that have to be put together.

A text is `<bos> a b . b c . c d . MODE S`, its three sentences (who stands next to whom, from one end to the other) in any order,
S one of the two ends. After `know` the answer is the fact of S, another name that the text does not say; after `find` it is who
stands at the other end: of the names said once, the one that was not asked for, which no sentence tells by itself. Both kinds
share context, length, question and the set of their answers; they differ in one word. The corrupted twin asks for the other end.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from conceptlab.worlds.recall_puzzles import MODES, STOP, SUBJECTS

LINE = 4  # people in a line
LEFT_OUT = 5  # one set of people in so many (numbers whose sum it divides) is left out


@dataclass(frozen=True)
class LinePuzzle:
    """The people of a line (numbers of `SUBJECTS`), the order of its sentences, and which end (0 or 1) is asked for."""

    line: tuple[int, ...]
    order: tuple[int, ...]
    asked: int

    def text(self, task: str, *, other: bool = False) -> str:
        """The prompt of one task, with `other` that of the other end."""
        said = [f"{SUBJECTS[a]} {SUBJECTS[b]} {STOP}" for a, b in zip(self.line, self.line[1:], strict=False)]
        return " ".join([*(said[i] for i in self.order), MODES[task], SUBJECTS[self._end(other=other)]])

    def answer(self, task: str, facts: list[int], *, other: bool = False) -> str:
        """The next word of that prompt, with `facts` [subject] the known names."""
        return SUBJECTS[facts[self._end(other=other)] if task == "recall" else self._end(other=not other)]

    def _end(self, *, other: bool) -> int:
        return self.line[-1 if self.asked != other else 0]


def lines(facts: list[int], *, left_out: bool) -> np.ndarray:
    """All lines [line, person] of as many people as there are `facts` that do not say the facts of their ends: those of the
    sets of people that are left out in training, or the others."""
    known = np.array(facts)
    found = np.array(list(permutations(range(len(facts)), LINE)))
    said = (found[:, None] == known[found[:, [0, -1]]][..., None]).any((1, 2))
    return found[~said & ((found.sum(1) % LEFT_OUT == 0) == left_out)]


def line_puzzles(n: int, among: np.ndarray, rng: np.random.Generator) -> list[LinePuzzle]:
    """`n` puzzles about lines drawn with replacement from `among` [line, person]."""
    drawn, ends = among[rng.integers(0, len(among), n)].tolist(), rng.integers(0, 2, n).tolist()
    orders = rng.random((n, LINE - 1)).argsort(1).tolist()
    return [LinePuzzle(tuple(line), tuple(order), end) for line, order, end in zip(drawn, orders, ends, strict=True)]
