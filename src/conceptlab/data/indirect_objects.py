"""Prompts with two names of which one is said twice: who is it given to? The indirect-object task (Wang et al. 2023)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from conceptlab.errors import InputError

NAMES = (
    "John", "Mary", "Tom", "Anna", "James", "Sarah", "David", "Emma", "Paul", "Lucy", "Peter", "Alice", "Mark", "Kate", "Jack",
    "Lily", "Ben", "Mia", "Sam", "Sue", "Tim", "Amy", "Max", "Jane", "Robert", "Laura", "Michael", "Jennifer", "Daniel", "Lisa",
    "Adam", "Rose", "Simon", "Rachel", "George", "Grace", "Henry", "Helen", "Charlie", "Julia", "Alex", "Maria", "Andrew", "Emily",
    "Kevin", "Susan", "Brian", "Karen", "Martin", "Linda", "Steve", "Claire", "Eric", "Diana", "Frank", "Ruth", "Luke", "Sophie",
)  # fmt: skip
TEMPLATES = (
    "Then {a} and {b} went to the park, and {s} gave a ball to",
    "One day {a} and {b} sat at the table, and {s} gave the book to",
    "When {a} and {b} came home, {s} gave a big box to",
)
LEAST_NAMES = 6


@dataclass(frozen=True)
class IndirectObjects:
    """`texts` that end before a name, the name of each that is said once (`answers`), and the one said twice (`repeated`)."""

    texts: tuple[str, ...]
    answers: tuple[str, ...]
    repeated: tuple[str, ...]

    def __post_init__(self) -> None:
        sizes = (len(self.texts), len(self.answers), len(self.repeated))
        if len(set(sizes)) > 1 or not self.texts:
            raise InputError(
                f"{sizes[0]} texts came with {sizes[1]} answers and {sizes[2]} repeated names; give one each"
            )


def indirect_objects(
    n: int, *, one_token: Callable[[str], bool], knows: Callable[[str], bool], seed: int = 0
) -> IndirectObjects:
    """`n` prompts, the first and the second name repeated as often, from the names that are `one_token` of the model's tokenizer
    and the templates that it `knows` every word of.

    Raises InputError where fewer than six names or no template are left.
    """
    names = [name for name in NAMES if one_token(name)]
    templates = [t for t in TEMPLATES if knows(t.format(a="", b="", s=""))]
    if len(names) < LEAST_NAMES or not templates:
        raise InputError(
            f"{len(names)} of {len(NAMES)} common first names are single tokens of this tokenizer and {len(templates)} of "
            f"{len(TEMPLATES)} prompts have words that it knows; {LEAST_NAMES} names and one prompt are needed: give prompts of "
            "your own with HeadSurvey(names=IndirectObjects(texts, answers, repeated))"
        )
    rng, rows = np.random.default_rng(seed), []
    for row in range(n):
        first, second = (names[i] for i in rng.choice(len(names), 2, replace=False))
        repeated, other = (first, second) if row % 2 == 0 else (second, first)
        template = templates[row // 2 % len(templates)]
        rows.append((template.format(a=first, b=second, s=repeated), other, repeated))
    texts, answers, said = zip(*rows, strict=True)
    return IndirectObjects(texts, answers, said)
