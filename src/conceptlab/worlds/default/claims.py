"""Statements about the world that somebody makes, true or false, with the verdict."""

import random

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample
from conceptlab.worlds.default.world import world

SPEAKERS = ("Someone says that", "It is written that", "A child says that", "They tell us that")
VERDICT = "This is"
ABOUT_COUNTRY = {
    "capital": "the capital of {} is {}",
    "language": "the language of {} is {}",
    "river": "the river of {} is the {}",
    "money": "the money of {} is the {}",
}


def claim(rng: random.Random) -> Sample:
    """A statement with its verdict; key: what is said of what, so a held-out statement was never judged before."""
    statement, true = rng.choice((_country, _country, _town, _noun, _person))(rng, rng.random() < 0.5)
    return Sample(f"{rng.choice(SPEAKERS)} {statement}. {VERDICT}", "true" if true else "false", statement)


def country_claim(rng: random.Random, true: bool) -> str:
    """What one country has, or what another one has."""
    return _country(rng, true)[0]


def _country(rng: random.Random, true: bool) -> tuple[str, bool]:
    relation = rng.choice(list(ABOUT_COUNTRY))
    country, other = rng.sample(list(world().countries.values()), 2)
    said = getattr(country if true else other, relation)
    return ABOUT_COUNTRY[relation].format(country.name, said), true


def _town(rng: random.Random, true: bool) -> tuple[str, bool]:
    town = rng.choice(world().towns)
    country = world().country_of[town].name
    said = country if true else rng.choice([name for name in world().countries if name != country])
    return f"{town} lies in {said}", true


def _noun(rng: random.Random, true: bool) -> tuple[str, bool]:
    noun = rng.choice(world().nouns)
    category = world().category_of[noun]
    said = category if true else rng.choice([name for name in lx.CATEGORIES if name != category])
    return f"the {noun} is {lx.article(said)}", true


def _person(rng: random.Random, true: bool) -> tuple[str, bool]:
    person = rng.choice(list(world().people.values()))
    said = person.job if true else rng.choice([job for job in lx.JOBS if job != person.job])
    return f"{person.name} is a {said}", true
