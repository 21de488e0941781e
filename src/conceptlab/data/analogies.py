"""Analogies a : b :: c : d with the relation that holds in both pairs, as prompts whose places are known."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import DataError

TEMPLATE = "{a} is to {b} as {c} is to"
COLUMNS = ("a", "b", "c", "d", "relation")


@dataclass(frozen=True)
class Analogy:
    """Four words and the name of their relation."""

    a: str
    b: str
    c: str
    d: str
    relation: str

    @property
    def prompt(self) -> str:
        """`a is to b as c is to`."""
        return TEMPLATE.format(a=self.a, b=self.b, c=self.c)

    @property
    def b_span(self) -> tuple[int, int]:
        """The characters of b in the prompt."""
        start = len(f"{self.a} is to ")
        return start, start + len(self.b)


def read_analogies(path: Path | str, *, most: int | None = None) -> list[Analogy]:
    """Read CSV, JSON lines or a JSON list with the columns a, b, c, d, relation; of more than `most` rows, some of each.

    Raises DataError as `read_records`, and where fewer than two relations are named.
    """
    table = read_records(path, COLUMNS)
    columns = [[cell.strip() for cell in texts_of(table, name)] for name in COLUMNS]
    found = [Analogy(*row) for row in zip(*columns, strict=True)]
    names = sorted({item.relation for item in found})
    if len(names) < 2:
        raise DataError(
            f"{path}: every analogy has the relation {names[0]!r}; give at least two relations, to tell them apart"
        )
    if most is None or len(found) <= most:
        return found
    by_relation = [[item for item in found if item.relation == name] for name in names]
    each = max(1, most // len(names))
    return [item for items in by_relation for item in items[:: max(1, len(items) // each)][:each]]
