"""Reviews with their verdict. A negator turns the verdict, a second one turns it back."""

import random

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample

OPENERS = (
    "We came on {day}.",
    "I was there in {month}.",
    "{name} went with me.",
    "It was our first visit.",
    "They have {number} rooms.",
)
NEGATED = ("was not", "was never", "was far from", "was hardly")
DENIED = ("It is false that", "Nobody says that", "I doubt that")
VERDICT = "The review is"


def review(rng: random.Random, negators: int | None = None) -> Sample:
    """A review of one thing in zero, one or two negators, often after a neutral sentence."""
    if negators is None:
        negators = rng.choice((0, 0, 1, 1, 2))
    good = rng.random() < 0.5
    thing = rng.choice(lx.REVIEWED)
    word, clause = _clause(rng, good, thing, negators)
    opener = f"{_opener(rng)} " if rng.random() < 0.5 else ""
    verdict = "good" if good ^ (negators % 2 == 1) else "bad"
    return Sample(f"{opener}{clause} {VERDICT}", verdict, f"{thing} {word} {negators}")


def _clause(rng: random.Random, good: bool, thing: str, negators: int) -> tuple[str, str]:
    if negators == 0 and rng.random() < 0.3:
        verb = rng.choice(lx.LIKES if good else lx.DISLIKES)
        return verb, f"{rng.choice(('I', 'We', 'My friends'))} {verb} the {thing}."
    word = rng.choice(lx.GOOD if good else lx.BAD)
    if negators == 0:
        return word, f"The {thing} was {rng.choice((*lx.INTENSIFIERS, ''))} {word}.".replace("  ", " ")
    if negators == 1 and rng.random() < 0.4:
        return word, f"{rng.choice(DENIED)} the {thing} was {word}."
    denial = f"{rng.choice(DENIED)} the" if negators == 2 else "The"
    return word, f"{denial} {thing} {rng.choice(NEGATED)} {word}."


def _opener(rng: random.Random) -> str:
    return rng.choice(OPENERS).format(
        day=rng.choice(lx.DAYS),
        month=rng.choice(lx.MONTHS),
        name=rng.choice(lx.WOMEN + lx.MEN),
        number=rng.choice(lx.NUMBER_WORDS[2:]),
    )
