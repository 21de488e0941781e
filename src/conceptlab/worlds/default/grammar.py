"""Agreement: of a verb with its subject across other nouns, of a pronoun with a name."""

import random

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample
from conceptlab.worlds.default.world import world

BETWEEN = ("near", "behind", "beside", "under")


def countable() -> list[str]:
    """Nouns whose singular and plural differ."""
    return [noun for noun in world().nouns if lx.plural(noun) != noun]


def agreement(rng: random.Random) -> Sample:
    """A verb in the number of its subject, with another noun in between; key: the two nouns, in their numbers."""
    if rng.random() < 0.2:
        return _pronoun(rng)
    subject, other = rng.sample(countable(), 2)
    many, other_many = rng.random() < 0.5, rng.random() < 0.5
    subject, other = (lx.plural(n) if m else n for n, m in ((subject, many), (other, other_many)))
    opener = rng.choice(list(lx.VERBS))
    state = f"{'been ' if opener == 'So far' else ''}{rng.choice(lx.AGES)}"
    age = f"{rng.choice(lx.AGES)} " if rng.random() < 0.5 else ""
    prompt = f"{opener} the {age}{subject} {rng.choice(BETWEEN)} the {other}"
    return Sample(prompt, lx.VERBS[opener][many], f"{subject} {other}", f" {state}.")


def _pronoun(rng: random.Random) -> Sample:
    person = rng.choice(list(world().people.values()))
    thing, verb = rng.choice(lx.OBJECTS), rng.choice(("lost", "found", "sold", "dropped"))
    return Sample(f"{person.name} {verb}", "her" if person.is_woman else "his", f"{person.name} {verb}", f" {thing}.")
