"""Statements about the world that somebody makes, true or false, with the verdict."""

import random
from collections.abc import Iterable
from typing import NamedTuple

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample
from conceptlab.worlds.default.stories import PLACED
from conceptlab.worlds.default.world import world

SPEAKERS = ("Someone says that", "It is written that", "A child says that", "They tell us that")
VERDICT = "This is"
ABOUT_COUNTRY = {
    "capital": "the capital of {} is",
    "language": "the language of {} is",
    "river": "the river of {} is the",
    "money": "the money of {} is the",
}


class Statement(NamedTuple):
    """What is said (`frame` with `said` at its end), what would be true there, and what was told before."""

    frame: str
    said: str
    true: str
    told: str = ""


def claim(rng: random.Random) -> Sample:
    """A statement with its verdict, then the truth; key: what is said of what, so a held-out one was never judged."""
    make = rng.choice((_country, _country, _town, _noun, _person, _story, _story))
    return _judged(rng, make(rng, rng.random() < 0.5))


def world_claim(rng: random.Random) -> Sample:
    """A claim that takes knowledge of the world, not of a story told before it."""
    return _judged(rng, rng.choice((_country, _country, _town, _noun, _person))(rng, rng.random() < 0.5))


def _judged(rng: random.Random, it: Statement) -> Sample:
    prompt = f"{it.told}{rng.choice(SPEAKERS)} {it.frame} {it.said}. {VERDICT}"
    verdict = "true" if it.said == it.true else "false"
    return Sample(prompt, verdict, f"{it.told}{it.frame} {it.said}", more=((f"In fact {it.frame}", it.true),))


def _other(rng: random.Random, words: Iterable[str], than: str) -> str:
    return rng.choice([word for word in words if word != than])


def _country(rng: random.Random, true: bool) -> Statement:
    relation = rng.choice(list(ABOUT_COUNTRY))
    country, other = rng.sample(list(world().countries.values()), 2)
    own = getattr(country, relation)
    return Statement(ABOUT_COUNTRY[relation].format(country.name), own if true else getattr(other, relation), own)


def _town(rng: random.Random, true: bool) -> Statement:
    town = rng.choice(world().towns)
    country = world().country_of[town].name
    return Statement(f"{town} lies in", country if true else _other(rng, world().countries, country), country)


def _noun(rng: random.Random, true: bool) -> Statement:
    noun = rng.choice(world().nouns)
    category = world().category_of[noun]
    said = category if true else _other(rng, lx.CATEGORIES, category)
    return Statement(f"the {noun} is", lx.article(said), lx.article(category))


def _person(rng: random.Random, true: bool) -> Statement:
    person = rng.choice(list(world().people.values()))
    frame, own, words = rng.choice(
        (
            (f"{person.name} works as a", person.job, lx.JOBS),
            (f"{person.name} owns a", person.pet, lx.CATEGORIES["mammal"][2]),
            (f"{person.name} was born in", person.born, world().towns),
        )
    )
    return Statement(frame, own if true else _other(rng, words, own), own)


def _story(rng: random.Random, true: bool) -> Statement:
    """Of two people or things just placed, one is said to be where it is or where the other one is."""
    wording, told_of, places = rng.choice(PLACED)
    (first, second), (here, there) = rng.sample(told_of, 2), rng.sample(places, 2)
    told = f"{wording.format(first)} {here}. {wording.format(second)} {there}. "
    who, own, other = rng.choice(((first, here, there), (second, there, here)))
    frame = wording.format(who)
    return Statement(
        frame[0].lower() + frame[1:] if frame.startswith("The ") else frame, own if true else other, own, told
    )
