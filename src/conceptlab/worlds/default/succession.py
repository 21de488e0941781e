"""What comes after: numbers in digits and words, days, months; and which of two numbers is bigger."""

import random

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample

DIGITS = [str(number) for number in range(lx.LARGEST + 1)]
ORDERS = {"number": (DIGITS, lx.NUMBER_WORDS), "day": (lx.DAYS,), "month": (lx.MONTHS,)}
STEPS = {
    1: ("The {k} after {x} is", "After the {k} {x} comes", "{x} is followed by"),
    -1: ("The {k} before {x} is", "Before the {k} {x} comes", "{x} is preceded by"),
}


def succession(rng: random.Random) -> Sample:
    """The item one step on or back in an order, or the next of a run of three; key: this item in this wording."""
    kind = rng.choice(("number", "number", "day", "month"))
    order = rng.choice(ORDERS[kind])
    if rng.random() < 0.25:
        return _run(rng, order)
    step = rng.choice((1, -1))
    index = _start(rng, order, step)
    prompt = rng.choice(STEPS[step]).format(k=kind, x=order[index])
    return Sample(prompt, order[(index + step) % len(order)], prompt)


def _start(rng: random.Random, order: list[str], step: int) -> int:
    """An index from which the step stays inside, for orders that do not come round."""
    if len(order) in (len(lx.DAYS), len(lx.MONTHS)):
        return rng.randrange(len(order))
    return rng.randrange(max(0, -step), len(order) - max(0, step))


def _run(rng: random.Random, order: list[str]) -> Sample:
    first = rng.randrange(len(order) - 3)
    prompt = f"Count with me, {order[first]} {order[first + 1]} {order[first + 2]}"
    return Sample(prompt, order[first + 3], prompt)


def comparison(rng: random.Random) -> Sample:
    """Which of two numbers is bigger; key: the pair."""
    first, second = rng.sample(range(lx.LARGEST + 1), 2)
    return Sample(
        f"Compare {first} with {second}. The first is", "bigger" if first > second else "smaller", f"{first} {second}"
    )
