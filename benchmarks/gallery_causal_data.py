"""Pairs of prompts for the causal gallery, in our own words: what each small model is asked, and how its prompts are corrupted.

The clean prompt and the corrupted one differ in one name, pronoun or symbol; the right answer of each is the wrong one of the
other. Only pairs are kept that the model gets right on both sides (the right answer above the wrong one), and of these the largest
group whose token layout is one and the same, so that a position means the same in every row.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.model import Batch, Model
from conceptlab.model.answers import first_token_pairs

# fmt: off
GIRLS = ("Lily", "Lucy", "Sue", "Mia", "Sara", "Anna", "Amy", "Jane", "Emma", "Ella", "Mary", "Molly", "Sally",
    "Rosie", "Daisy", "Zoe", "Kate", "Nina", "Lola", "Betty", "Ann", "Eva", "Jill", "Bella", "Lisa", "Alice",
    "Ruby", "Jenny", "Grace", "Clara")
BOYS = ("Tom", "Tim", "Ben", "Max", "Sam", "Jack", "Bob", "Joe", "Billy", "Bobby", "Timmy", "Tommy", "John",
    "Mark", "Leo", "Fred", "Peter", "Adam", "James", "Henry", "Oscar", "Nick", "Roy", "Jim", "Mike", "Dan",
    "Luke", "Paul", "David", "Frank")
# fmt: on
BALLS = ("ball", "bird", "boat", "book", "cake", "fish", "toy", "bag", "box", "dog", "cat", "hat", "car", "bed")
STEMS = {"wil": ("t", "l"), "can": ("s", " "), "did": ("s", " "), "had": ("s", " "), "wer": ("t", "e")}
CONTEXTS = (
    "If now ",
    "But yet ",
    "O, then ",
    "So here ",
    "And yet ",
    "I say, ",
    "Nay, if ",
    "At home ",
    "What if ",
    "Yet now ",
)
LETTERS = "ABC"
CHANGED = 2  # the symbol of the sorting model's input that is corrupted
GIVEN = 3  # sorted letters that stand already in the sorting model's prompt
BLANK = "·"
MOST = 32  # pairs a model


@dataclass(frozen=True)
class Row:
    """One pair: prompts that are the same from the character `after` on (of the clean one), and the answer of each."""

    clean: str
    corrupted: str
    answer: str
    distractor: str
    after: int


@dataclass(frozen=True)
class Task:
    """What a model is asked (`words`), its pairs, and what stands where they differ. `joined` answers follow without a space."""

    words: str
    differs: str
    rows: Callable[[Model, np.random.Generator], list[Row]]
    joined: bool = False


@dataclass(frozen=True, eq=False)
class Chosen:
    """The pairs that are used, with `tried` and `right` counts; `places` names every position."""

    clean: list[str]
    corrupted: list[str]
    answers: list[int]
    distractors: list[int]
    tried: int
    right: int
    places: list[str]


def _named(frames: list[str], answers: tuple[str, str]) -> Callable[[Model, np.random.Generator], list[Row]]:
    """For every frame each name of one gender beside one of the other that is as many tokens long; matched anew for each frame."""

    def rows(model: Model, rng: np.random.Generator) -> list[Row]:
        found = []
        for frame in frames:
            size = {name: model.encode([frame.format(name)]).lengths[0] for name in (*GIRLS, *BOYS)}
            for n in sorted(set(size.values())):
                girls, boys = (rng.permutation([name for name in names if size[name] == n]) for names in (GIRLS, BOYS))
                for i, (a, b) in enumerate(zip(girls, boys, strict=False)):
                    found.append(_pair(frame, str(a), str(b), answers, turn=bool(i % 2)))
        return found

    return rows


def _pair(frame: str, ours: str, theirs: str, answers: tuple[str, str], *, turn: bool) -> Row:
    """One pair; `turn` exchanges clean and corrupted."""
    if turn:
        ours, theirs, answers = theirs, ours, (answers[1], answers[0])
    at = frame.index("{}")
    return Row(frame.format(ours), frame.format(theirs), *answers, at + len(ours))


def _inflected(_: Model, rng: np.random.Generator) -> list[Row]:
    """thou or they before a verb that is cut where its ending begins."""
    cases = [(c, s) for c in CONTEXTS for s in STEMS]
    order = rng.permutation(len(cases))
    pairs = ((f"{cases[i][0]}{{}} {cases[i][1]}", STEMS[cases[i][1]]) for i in order)
    return [_pair(frame, "thou", "they", ends, turn=bool(n % 2)) for n, (frame, ends) in enumerate(pairs)]


def _sorted(_: Model, rng: np.random.Generator) -> list[Row]:
    """Six letters and their three smallest; another letter at one place leaves these as they are and changes the fourth."""
    found = []
    for letters in product(LETTERS, repeat=6):
        for other in set(LETTERS) - {letters[CHANGED]}:
            changed = [*letters[:CHANGED], other, *letters[CHANGED + 1 :]]
            ours, theirs = sorted(letters), sorted(changed)
            if ours[:GIVEN] == theirs[:GIVEN] and ours[GIVEN] != theirs[GIVEN]:
                given = "".join(ours[:GIVEN])
                texts = "".join(letters) + given, "".join(changed) + given
                found.append(Row(*texts, ours[GIVEN], theirs[GIVEN], CHANGED + 1))
    return [found[i] for i in rng.permutation(len(found))]


TASKS = {
    "stories260k": Task(
        'a pronoun agrees with a first name: "(name) had a big red ball." goes on with "She" or "He"',
        "name",
        _named([f"{{}} had a big red {thing}." for thing in BALLS], ("She", "He")),
    ),
    "tinystories-656k": Task(
        'a pronoun agrees with a first name: "(name) had a big red ball" goes on with the token ". She " or ". He "',
        "name",
        _named([f"{{}} had a big red {thing}" for thing in BALLS], (". She ", ". He ")),
        joined=True,
    ),
    "babyllama-char105": Task(
        'a pronoun agrees with a first name, letter by letter: "(name) had a big red ball. " goes on with "S" or "H"',
        "name",
        _named([f"{{}} had a big red {thing}. " for thing in BALLS], ("She", "He")),
    ),
    "nano-sort-gpt2": Task(
        "six letters and the three smallest of them are given, the fourth smallest is asked; one letter is corrupted",
        "letter",
        _sorted,
        joined=True,
    ),
    "shakespeare-char-gpt2": Task(
        'a verb agrees with thou or they, letter by letter: "If now thou wil" goes on with "t", "If now they wil" with "l"',
        "pronoun",
        _inflected,
        joined=True,
    ),
}  # fmt: skip


def chosen_pairs(model: Model, task: Task, seed: int = 0) -> Chosen:
    """The pairs of `task` for `model`: right on both sides, of one layout, at most MOST. Raises InputError where none is."""
    tried = task.rows(model, np.random.default_rng(seed))
    sides = [model.encode([row.clean for row in tried]), model.encode([row.corrupted for row in tried])]
    answers, distractors = _answers(model, tried, task.joined)
    clean, corrupted = (_margins(model, side, answers, distractors) for side in sides)
    right = np.flatnonzero((clean > 0) & (corrupted < 0))
    layouts = {int(i): _layout(model, tried[i], *(side.ids[i] for side in sides)) for i in right}
    common = Counter(at for at in layouts.values() if at is not None).most_common(1)
    if not common:
        raise InputError(f"{model.name} gets no pair right on both sides; ask it something else")
    kept = [i for i, at in layouts.items() if at == common[0][0]][:MOST]
    return Chosen(
        [tried[i].clean for i in kept],
        [tried[i].corrupted for i in kept],
        [answers[i] for i in kept],
        [distractors[i] for i in kept],
        len(tried),
        len(right),
        _places(model, [side.select(kept) for side in sides], task.differs),
    )


def _answers(model: Model, rows: list[Row], joined: bool) -> tuple[list[int], list[int]]:
    """First tokens of the answers; `joined` ones are one token themselves."""
    if not joined:
        return first_token_pairs(model, [r.clean for r in rows], [r.answer for r in rows], [r.distractor for r in rows])
    texts = [r.clean for r in rows]
    before = model.encode(texts).ids
    found = []
    for side in ("answer", "distractor"):
        whole = model.encode([t + getattr(r, side) for t, r in zip(texts, rows, strict=True)]).ids
        if any(b[: len(a)] != a or len(b) != len(a) + 1 for a, b in zip(before, whole, strict=True)):
            raise InputError(f"{model.name} does not read the {side} as one more token")
        found.append([b[-1] for b in whole])
    return found[0], found[1]


def _margins(model: Model, batch: Batch, answers: list[int], distractors: list[int]) -> np.ndarray:
    """logit(answer) - logit(distractor) [row]."""
    logits, rows = model.logits(batch), torch.arange(len(batch))
    return (logits[rows, answers] - logits[rows, distractors]).double().numpy()


def _layout(model: Model, row: Row, clean: tuple[int, ...], corrupted: tuple[int, ...]) -> tuple[int, int] | None:
    """Tokens of a pair, and of what follows the place where it differs; None where clean and corrupted have not as many."""
    if len(clean) != len(corrupted):
        return None
    return len(clean), len(model.encode([row.clean[row.after :]]).ids[0])


def _places(model: Model, sides: list[Batch], differs: str) -> list[str]:
    """A name for every position: its token where all rows share it, `differs` where clean and corrupted ever differ."""
    clean, corrupted = (np.array(side.ids) for side in sides)
    found = []
    for at in range(clean.shape[1]):
        tokens = np.unique(clean[:, at])
        text = model.tokenizer.decode([int(tokens[0])]).replace(" ", BLANK) or BLANK if len(tokens) == 1 else "…"
        found.append(f"{at} {differs if (clean[:, at] != corrupted[:, at]).any() else text}")
    return found
