"""What only the text tells: repeated codes, who received or holds an object, in which room a thing is."""

import random

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample

CODE_LENGTHS = (4, 5, 6)
GIVING = (
    "When {a} and {b} went to the {place}, {s} gave the {object} to",
    "Then {a} and {b} met at the {place}. {s} handed the {object} to",
    "{a} and {b} sat near the {place}, and {s} showed the {object} to",
)


def copying(rng: random.Random) -> Sample:
    """A code of colours and metals, then its start again: the rest is to be copied; key: the code's first three."""
    length = rng.choice(CODE_LENGTHS)
    code = rng.sample(lx.COLOURS + lx.METALS, length)
    seen = rng.randrange(1, length)
    prompt = f"The code is {' '.join(code)}. Again, {' '.join(code[:seen])}"
    return Sample(prompt, " ".join(code[seen:]), " ".join(code[:3]))


def giving(rng: random.Random) -> Sample:
    """Two people, one gives: the other receives; key: the pair, whichever way round."""
    a, b = rng.sample(lx.WOMEN + lx.MEN, 2)
    giver, receiver = rng.choice(((a, b), (b, a)))
    place, thing = rng.choice(lx.PLACES), rng.choice(lx.OBJECTS)
    prompt = rng.choice(GIVING).format(a=a, b=b, s=giver, place=place, object=thing)
    return Sample(prompt, receiver, " ".join(sorted((a, b))))


def holding(rng: random.Random) -> Sample:
    """Two objects change hands up to three times: who has one of them at the end; key: owners and first object."""
    people = rng.sample(lx.WOMEN + lx.MEN, 3)
    things = rng.sample(lx.OBJECTS, 2)
    owner = dict(zip(things, people, strict=False))
    told = [f"{person} has the {thing}." for thing, person in owner.items()]
    key = " ".join(told)
    for _ in range(rng.randrange(4)):
        thing = rng.choice(things)
        receiver = rng.choice([person for person in people if person != owner[thing]])
        told.append(f"{owner[thing]} gives the {thing} to {receiver}.")
        owner[thing] = receiver
    (prompt, answer), *more = [(f"Now the {thing} is with", owner[thing]) for thing in rng.sample(things, 2)]
    return Sample(f"{' '.join(told)} {prompt}", answer, key, more=tuple(more))


def room(rng: random.Random) -> Sample:
    """Two things in two containers in two rooms, told in any order: where one thing is; key: things and containers."""
    things, containers = rng.sample(lx.OBJECTS, 2), rng.sample(lx.CONTAINERS, 2)
    rooms = [rng.choice(lx.INDOORS), rng.choice(lx.OUTDOORS)]
    rng.shuffle(rooms)
    told = [f"The {thing} is in the {holder}." for thing, holder in zip(things, containers, strict=True)]
    told += [f"The {holder} is in the {place}." for holder, place in zip(containers, rooms, strict=True)]
    rng.shuffle(told)
    key = f"{things} {containers}"
    questions = [_where(thing, place, exact) for thing, place in zip(things, rooms, strict=True) for exact in (0, 1)]
    (prompt, answer), *more = rng.sample(questions, 4)
    return Sample(f"{' '.join(told)} {prompt}", answer, key, more=tuple(more))


def _where(thing: str, place: str, exact: int) -> tuple[str, str]:
    if exact:
        return f"So you find the {thing} in the", place
    return f"So the {thing} is", "indoors" if place in lx.INDOORS else "outdoors"


def coin(rng: random.Random) -> Sample:
    """A tossed coin: nothing in the text tells the answer, and no model can know it."""
    person, place = rng.choice(lx.WOMEN + lx.MEN), rng.choice(lx.PLACES)
    prompt = f"{person} tossed a coin at the {place} on {rng.choice(lx.DAYS)}. The coin shows"
    return Sample(prompt, rng.choice(("heads", "tails")), prompt)
