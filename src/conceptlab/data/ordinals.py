"""Words that have a next one: numbers, number words, ordinals, days, months, letters, Roman numerals, as single tokens of a
vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import InputError

_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
         "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty")  # fmt: skip
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
             "twelfth", "thirteenth", "fourteenth", "fifteenth")  # fmt: skip
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI", "XVII",
          "XVIII", "XIX", "XX")  # fmt: skip
FAMILIES: dict[str, tuple[str, ...]] = {
    "numbers": tuple(str(n) for n in range(201)),
    "number words": _ONES,
    "ordinal words": _ORDINALS,
    "days": _DAYS,
    "months": _MONTHS,
    "letters": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "roman numerals": _ROMAN,
}
LEAST = 7  # members of a family
SPACES = ("Ġ", "▁", " ", "")  # how vocabularies write that a word follows a space, and none


@dataclass(frozen=True, eq=False)
class Ordinals:
    """`tokens` of all families, one after the other; `families` [place in tokens]; `rank` [token] of a member in its whole family;
    `following` [token], the place of the next member inside its family, -1 for a last one; `left_out` says what was not used."""

    tokens: tuple[int, ...]
    families: Mapping[str, range]
    rank: np.ndarray
    following: np.ndarray
    left_out: tuple[str, ...]

    def runs(self, family: str, length: int) -> list[list[int]]:
        """Every run of `length` members (places in tokens) that follow one another."""
        here = list(self.families[family])
        runs = [here[i : i + length] for i in range(len(here) - length + 1)]
        return [run for run in runs if self.rank[run[-1]] - self.rank[run[0]] == length - 1]


def read_families(path: Path | str) -> dict[str, tuple[str, ...]]:
    """Read CSV, JSON lines or a JSON list with the columns `family` and `word`, in the order of each series.

    Raises DataError as `read_records`, and where a family has a word twice.
    """
    table = read_records(path, ("family", "word"))
    found: dict[str, list[str]] = {}
    for row, (family, word) in enumerate(zip(texts_of(table, "family"), texts_of(table, "word"), strict=True)):
        word = word.strip()
        if word in found.setdefault(family.strip(), []):
            raise table.error(
                row, f"{word!r} stands twice in the family {family.strip()!r}; a series has every word once"
            )
        found[family.strip()].append(word)
    return {family: tuple(words) for family, words in found.items()}


def ordinals_in(
    vocabulary: Mapping[str, int], *, families: Mapping[str, Sequence[str]] | None = None, name: str = "this tokenizer"
) -> Ordinals:
    """The families that `vocabulary` (token -> id) keeps as single tokens, each in the form (space, case) with most members.

    Raises InputError where none has seven members, at least six of which have a next one.
    """
    tokens, places, rank, following, left_out = [], {}, [], [], []
    for family, words in (families or FAMILIES).items():
        found = max((_in_form(vocabulary, words, *form) for form in _forms()), key=len)
        ranks = sorted(found)
        pairs = [a + 1 in found for a in ranks]
        if len(found) < LEAST or sum(pairs) < LEAST - 1:
            left_out.append(f"{family}: {len(found)} of {len(words)} words are single tokens")
            continue
        places[family] = range(len(tokens), len(tokens) + len(found))
        tokens += [found[r] for r in ranks]
        rank += ranks
        following += [i + 1 if has_next else -1 for i, has_next in enumerate(pairs)]
    if not places:
        raise InputError(
            f"{name} keeps no family of ordinal words as single tokens ({'; '.join(left_out)}); {LEAST} members are needed "
            "to ask for successors"
        )
    return Ordinals(tuple(tokens), places, np.array(rank), np.array(following), tuple(left_out))


def _forms() -> list[tuple[str, str]]:
    return [(space, case) for space in SPACES for case in ("as it is", "lower", "title")]


def _in_form(vocabulary: Mapping[str, int], words: Sequence[str], space: str, case: str) -> dict[int, int]:
    """Token id by rank of the words that are in the vocabulary in this form."""
    cased = {"as it is": str, "lower": str.lower, "title": str.title}[case]
    found = {rank: vocabulary.get(space + cased(word)) for rank, word in enumerate(words)}
    return {rank: token for rank, token in found.items() if token is not None}
