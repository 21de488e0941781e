"""Kinds of things: members, the kinds above them, and what members inherit."""

import random

from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.sample import Sample
from conceptlab.worlds.default.world import world

CATEGORY = ("{a} is a kind of", "{n} is one kind of", "{a} belongs to the category")


def taxonomy(rng: random.Random) -> Sample:
    """The category, the kind above it, an inherited property, or a yes/no question; key: this noun in this wording."""
    if rng.random() < 0.12:
        return _substance(rng)
    noun = rng.choice(world().nouns)
    make = rng.choice((_category, _kind, _property, _question))
    prompt, answer = make(rng, noun)
    return Sample(prompt, answer, prompt)


def upper(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


def _category(rng: random.Random, noun: str) -> tuple[str, str]:
    wording = rng.choice(CATEGORY)
    return upper(wording.format(a=lx.article(noun), n="the " + noun)), world().category_of[noun]


def _kind(rng: random.Random, noun: str) -> tuple[str, str]:
    if rng.random() < 0.5:
        return f"In general, the {noun} is called", lx.article(world().kind_of(noun))
    return f"{upper(lx.article(noun))} is", "alive" if lx.KIND_IS_ALIVE[world().kind_of(noun)] else "lifeless"


def _property(rng: random.Random, noun: str) -> tuple[str, str]:
    del rng
    return f"All {lx.plural(noun)} come with", lx.CATEGORIES[world().category_of[noun]][1]


def _question(rng: random.Random, noun: str) -> tuple[str, str]:
    category = world().category_of[noun]
    asked = category if rng.random() < 0.5 else rng.choice([name for name in lx.CATEGORIES if name != category])
    return f"Is {lx.article(noun)} {lx.article(asked)}?", "Yes" if asked == category else "No"


def _substance(rng: random.Random) -> Sample:
    kind, words = rng.choice((("colour", lx.COLOURS), ("metal", lx.METALS)))
    word = rng.choice(words)
    prompt = f"{rng.choice(('We know that', 'Everybody says'))} {word} is a"
    return Sample(prompt, kind, prompt)
