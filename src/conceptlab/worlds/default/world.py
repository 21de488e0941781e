"""The closed world: who was born where, what belongs to which kind. One fixed world, drawn once from a seed."""

import random
from dataclasses import dataclass
from functools import cache

from conceptlab.worlds.default import lexicon as lx

WORLD_SEED = 20


@dataclass(frozen=True)
class Country:
    """A country and what there is one of in it."""

    name: str
    towns: tuple[str, str, str]
    language: str
    river: str
    money: str
    continent: str

    @property
    def capital(self) -> str:
        """The first of its towns."""
        return self.towns[0]


@dataclass(frozen=True)
class Person:
    """A person with the facts that never change; where a person is now or what one holds is told in each story."""

    name: str
    is_woman: bool
    born: str
    job: str
    pet: str


@dataclass(frozen=True)
class World:
    """All entities by name. `country_of` maps a town, `category_of` a noun."""

    countries: dict[str, Country]
    people: dict[str, Person]
    country_of: dict[str, Country]
    category_of: dict[str, str]

    @property
    def towns(self) -> list[str]:
        """All towns, in order of countries."""
        return list(self.country_of)

    @property
    def nouns(self) -> list[str]:
        """All members of categories."""
        return list(self.category_of)

    def continent_of(self, town: str) -> str:
        """north or south."""
        return self.country_of[town].continent

    def kind_of(self, noun: str) -> str:
        """animal, plant or product."""
        return lx.CATEGORIES[self.category_of[noun]][0]


@cache
def world() -> World:
    """The world. Births are dealt so that each continent holds as many women as men."""
    rng = random.Random(WORLD_SEED)
    countries = {
        name: Country(name, *facts, continent=lx.CONTINENTS[index // 4])
        for index, (name, facts) in enumerate(lx.COUNTRIES.items())
    }
    country_of = {town: country for country in countries.values() for town in country.towns}
    category_of = {noun: category for category, (_, _, nouns) in lx.CATEGORIES.items() for noun in nouns}
    people = {person.name: person for names in (lx.WOMEN, lx.MEN) for person in _people(rng, names, list(country_of))}
    return World(countries, people, country_of, category_of)


def _people(rng: random.Random, names: list[str], towns: list[str]) -> list[Person]:
    half = len(towns) // 2
    sides = [rng.sample(towns[:half], half), rng.sample(towns[half:], half)]
    order = rng.sample(names, len(names))
    pets = lx.CATEGORIES["mammal"][2]
    return [
        Person(name, names is lx.WOMEN, sides[i % 2][(i // 2) % half], rng.choice(lx.JOBS), rng.choice(pets))
        for i, name in enumerate(order)
    ]
