"""Facts of the world, and questions of two hops over them: from memory, and from what the text has just told."""

import random

from conceptlab.worlds.default.sample import Sample
from conceptlab.worlds.default.world import Country, world

COUNTRY_FACTS = {
    "capital": ("The capital of {} is", "The first town of {} is", "{} is ruled from"),
    "language": ("The language of {} is", "People in {} speak", "Books in {} are written in"),
    "river": ("The river of {} is the", "Through {} flows the", "Boats in {} sail on the"),
    "money": ("The money of {} is the", "People in {} pay with the", "Shops in {} take the"),
    "continent": ("{} lies in the", "The country of {} is in the", "A map shows {} in the"),
}
TOWN_FACTS = ("{} is a town in", "The town of {} lies in", "The country of {} is")
PERSON_FACTS = {
    "born": ("{} was born in", "The home town of {} is", "The birth of {} was in"),
    "job": ("{} works as a", "The job of {} is that of a", "{} earns money as a"),
    "pet": ("{} owns a", "The pet of {} is a", "{} lives with a"),
}
OF_COUNTRY = {
    "name": "The country where {} is",
    "capital": "The capital of the country where {} is",
    "language": "The language of the country where {} is",
    "river": "The river of the country where {} is the",
    "money": "The money of the country where {} is the",
    "continent": "The country where {} lies in the",
}
NOW = ("is staying", "is now")


def fact(rng: random.Random) -> Sample:
    """One fact in one of three wordings; a held-out one was only seen in its other wordings."""
    w = world()
    choice = rng.random()
    if choice < 0.3:
        country = rng.choice(list(w.countries.values()))
        relation = rng.choice(list(COUNTRY_FACTS))
        return _worded(rng, COUNTRY_FACTS[relation], country.name, getattr(country, relation))
    if choice < 0.45:
        town = rng.choice(w.towns)
        return _worded(rng, TOWN_FACTS, town, w.country_of[town].name)
    person = rng.choice(list(w.people.values()))
    relation = rng.choice(list(PERSON_FACTS))
    return _worded(rng, PERSON_FACTS[relation], person.name, getattr(person, relation))


def _worded(rng: random.Random, wordings: tuple[str, ...], subject: str, answer: str) -> Sample:
    prompt = rng.choice(wordings).format(subject)
    return Sample(prompt, answer, prompt)


def two_hop_memory(rng: random.Random) -> Sample:
    """Something of the country where a person was born; no two-hop text about a held-out person is ever trained on."""
    w = world()
    person = rng.choice(list(w.people.values()))
    prompt, answer = _of_country(rng.choice(list(OF_COUNTRY)), f"{person.name} was born", w.country_of[person.born])
    return Sample(prompt, answer, f"two hop {person.name}")


def two_hop_context(rng: random.Random) -> Sample:
    """Something of the country where one of two people is now, as told before; the pair with its towns is the key."""
    w = world()
    people, towns = rng.sample(list(w.people), 2), rng.sample(w.towns, 2)
    verb = rng.choice(NOW)
    told = " ".join(f"{person} {verb} in {town}." for person, town in zip(people, towns, strict=True))
    asked = rng.sample([(index, relation) for index in (0, 1) for relation in OF_COUNTRY], 3)
    (prompt, answer), *more = [_of_country(r, f"{people[i]} {verb}", w.country_of[towns[i]]) for i, r in asked]
    return Sample(f"{told} {prompt}", answer, f"{people} {towns}", more=tuple(more))


def _of_country(relation: str, who: str, country: Country) -> tuple[str, str]:
    return OF_COUNTRY[relation].format(who), getattr(country, relation)
