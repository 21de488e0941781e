"""The labelled concepts of the embedded model, from words on their own to things that take several steps to know.

Every concept is balanced over its classes. Where one word of the text could give its label away (the adjective of a
review, the subject of a claim) that word is the group, so that a probe is always tested on ones it was not fitted on.
Where a text holds one word of each class and the question decides (names, numbers), the pair is the group: were it
the right word alone, a held-out word would only ever be seen as the wrong one, and probes would fall below chance.
`coin` is truly absent: its labels are drawn apart from its texts. Skills that this model did not learn (its card has
them: two hops from the text, rooms, holding) have no concept here.
`python -m conceptlab.worlds.default.concepts` writes the rows again to `concepts.jsonl`.
"""

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.claims import claim
from conceptlab.worlds.default.grammar import BETWEEN, countable
from conceptlab.worlds.default.reviews import review
from conceptlab.worlds.default.sample import Sample
from conceptlab.worlds.default.stories import coin, copying, giving
from conceptlab.worlds.default.succession import DIGITS, STEPS, comparison
from conceptlab.worlds.default.taxonomy import CATEGORY, upper
from conceptlab.worlds.default.world import world

CONCEPTS_FILE = Path(__file__).parent / "concepts.jsonl"
SEED = 5
ROWS = 400  # of a concept whose texts are drawn; those that are listed in full have as many as there are
NEAR = 6  # the largest difference of two compared numbers


class Row(NamedTuple):
    """One labelled text; `words` are next tokens that say its label, `span` the characters to read (None: the end)."""

    text: str
    label: str | int
    group: str | None
    words: tuple[str, ...] = ()
    span: tuple[int, int] | None = None


Maker = Callable[[random.Random], Row | None]


def default_rows() -> list[dict]:
    """Every row of every concept, as the columns of a labelled file (text, label, concept, group, start, end, words)."""
    return [_columns(name, row) for name, make in CONCEPTS.items() for row in make(random.Random(f"{SEED} {name}"))]


def _columns(name: str, row: Row) -> dict:
    columns: dict[str, object] = {"concept": name, "text": row.text, "label": row.label}
    if row.group:
        columns["group"] = row.group
    if row.span:
        columns["start"], columns["end"] = row.span
    if row.words:
        columns["words"] = list(row.words)
    return columns


def _drawn(make: Maker, classes: int = 2) -> Callable[[random.Random], list[Row]]:
    """ROWS different texts from `make` (None: not wanted), as many of each label."""

    def rows(rng: random.Random) -> list[Row]:
        seen: set[str] = set()
        counts: Counter[str | int] = Counter()
        kept = []
        while len(kept) < ROWS:
            row = make(rng)
            if row and row.text not in seen and counts[row.label] < ROWS // classes:
                seen.add(row.text)
                counts[row.label] += 1
                kept.append(row)
        return kept

    return rows


def _last_word(prompt: str) -> str:
    return prompt.rstrip(".").rsplit(" ", 1)[-1]


def _word_class(rng: random.Random) -> Row:
    if rng.random() < 0.5:
        word, label = rng.choice(lx.GOOD + lx.BAD + lx.AGES), "adjective"
        text = f"The {rng.choice(lx.REVIEWED)} was {rng.choice(lx.INTENSIFIERS)} {word}."
    else:
        word, label = rng.choice(lx.OBJECTS + lx.CONTAINERS + lx.INDOORS + lx.OUTDOORS + lx.PLACES), "noun"
        giver, receiver = rng.sample(lx.WOMEN + lx.MEN, 2)
        text = f"{giver} gave the {word} to {receiver}."
    start = text.index(f" {word}") + 1
    return Row(text, label, word, span=(start, start + len(word)))


def _subject_number(rng: random.Random) -> Row:
    subject, other = rng.sample(countable(), 2)
    many, other_many = rng.random() < 0.5, rng.random() < 0.5
    shown, beside = lx.plural(subject) if many else subject, lx.plural(other) if other_many else other
    text = f"{rng.choice(list(lx.VERBS))} the {rng.choice(lx.AGES)} {shown} {rng.choice(BETWEEN)} the {beside}"
    return Row(text, "plural" if many else "singular", subject, tuple(pair[many] for pair in lx.VERBS.values()))


def _category(rng: random.Random) -> list[Row]:
    rows = [
        Row(upper(wording.format(a=lx.article(noun), n="the " + noun)), category, noun, (category,))
        for noun, category in world().category_of.items()
        for wording in CATEGORY
    ]
    return rng.sample(rows, len(rows))


def _next_code(rng: random.Random) -> Row | None:
    """The next item of a copied code, of which as many colours as metals are left: counting them tells nothing."""
    sample = copying(rng)
    left = sample.answer.split()
    if sum(word in lx.COLOURS for word in left) * 2 != len(left):
        return None
    return Row(sample.prompt, "colour" if left[0] in lx.COLOURS else "metal", None, (left[0],))


def _recipient(rng: random.Random) -> Row | None:
    sample = giving(rng)
    giver = next(name for name in sample.key.split() if name != sample.answer)
    if (giver in lx.WOMEN) == (sample.answer in lx.WOMEN):
        return None
    label = "woman" if sample.answer in lx.WOMEN else "man"
    return Row(sample.prompt, label, sample.key, (sample.answer,))


def _number(rng: random.Random) -> list[Row]:
    rows = []
    for order in (DIGITS, lx.NUMBER_WORDS):
        for step, wordings in STEPS.items():
            for index in range(max(0, -step), len(order) - max(0, step)):
                texts = [wording.format(k="number", x=order[index]) for wording in wordings]
                rows += [Row(text, index + step, str(index + step)) for text in texts]
    return rng.sample(rows, len(rows))


def _sentiment(rng: random.Random) -> Row:
    return _reviewed(review(rng, negators=0))


def _negated_sentiment(rng: random.Random) -> Row:
    """Half with one negator, a quarter each with none and two: the word itself tells nothing."""
    return _reviewed(review(rng, negators=rng.choice((0, 1, 1, 2))))


def _reviewed(sample: Sample) -> Row:
    return Row(sample.prompt, sample.answer, sample.key.split()[1], (sample.answer,))


def _comparison(rng: random.Random) -> Row | None:
    """Which of two near numbers is bigger: near, so that the first one alone tells little."""
    sample = comparison(rng)
    first, second = (int(number) for number in sample.key.split())
    if abs(first - second) > NEAR:
        return None
    return Row(sample.prompt, sample.answer, f"{min(first, second)} {max(first, second)}", (sample.answer,))


def _truth(rng: random.Random) -> Row:
    sample = claim(rng)
    words = [word for word in sample.key.split() if word in SUBJECTS]
    return Row(sample.prompt, sample.answer, words[0], (sample.answer,))


def _coin(rng: random.Random) -> Row:
    sample = coin(rng)
    return Row(sample.prompt, sample.answer, sample.prompt.split()[0], (sample.answer,))


SUBJECTS = frozenset((*lx.COUNTRIES, *lx.WOMEN, *lx.MEN, *world().towns, *world().nouns))
CONCEPTS: dict[str, Callable[[random.Random], list[Row]]] = {
    "word class": _drawn(_word_class),
    "subject number": _drawn(_subject_number),
    "category": _category,
    "next code": _drawn(_next_code),
    "recipient": _drawn(_recipient),
    "number": _number,
    "sentiment": _drawn(_sentiment),
    "negated sentiment": _drawn(_negated_sentiment),
    "comparison": _drawn(_comparison),
    "truth": _drawn(_truth),
    "coin": _drawn(_coin),
}


def write_rows(path: Path = CONCEPTS_FILE) -> None:
    """Write `default_rows` as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in default_rows()))


if __name__ == "__main__":
    write_rows()
