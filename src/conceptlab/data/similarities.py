"""People's judgements of how alike two words are: one value a pair and person."""

import math
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown

COLUMNS = ("a", "b", "similarity")


def read_similarities(path: Path | str) -> dict[tuple[str, str], list[float]]:
    """Read CSV, JSON lines or a JSON list with the columns `a`, `b`, `similarity` and, if known, `person`: values by pair of words,
    one place a person (NaN where a person did not judge the pair).

    Raises DataError as `read_records`, and for a similarity that is no number.
    """
    table = read_records(path, COLUMNS, ("person",))
    firsts, seconds, cells = (texts_of(table, name) for name in COLUMNS)
    people = texts_of(table, "person") if "person" in table.columns else ("",) * len(cells)
    place = {name: i for i, name in enumerate(dict.fromkeys(people))}
    found: dict[tuple[str, str], list[float]] = {}
    for row, (a, b, cell, person) in enumerate(zip(firsts, seconds, cells, people, strict=True)):
        try:
            value = float(cell)
        except ValueError as error:
            raise table.error(row, f"the similarity {shown(cell)} is no number; write one") from error
        if not math.isfinite(value):
            raise table.error(row, f"the similarity {shown(cell)} is not finite; write a number")
        found.setdefault((a.strip(), b.strip()), [math.nan] * len(place))[place[person]] = value
    return found
