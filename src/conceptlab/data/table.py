"""A labelled file as read: named columns of raw cells that know where in the file they stood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from conceptlab.errors import DataError

REQUIRED = ("text", "label")
OPTIONAL = ("concept", "group", "start", "end", "words")
KNOWN = (*REQUIRED, *OPTIONAL)
MAX_FIELD = 1_000_000  # characters; longer cells are an unclosed quote far more often than a text


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one file; a missing cell is None. `places` [row] are line or (Parquet) row numbers from 1."""

    path: Path
    columns: Mapping[str, Sequence[object]]
    places: Sequence[int]
    unit: str
    typed: bool  # False: every cell is a string (CSV)

    def column(self, name: str) -> Sequence[object] | None:
        """The cells of a column, or None where the file has none."""
        return self.columns.get(name)

    def error(self, row: int, message: str) -> DataError:
        """A DataError that names the file and the line or row."""
        return DataError(f"{self.path}, {self.unit} {self.places[row]}: {message}")


def shown(value: object, limit: int = 40) -> str:
    """`value` as one short printable line, for messages."""
    text = ascii(value[: limit + 1] if isinstance(value, str) else value)
    return text if len(text) <= limit + 2 else f"{text[:limit]}…"


def check_header(path: Path, names: Sequence[str]) -> None:
    """Raise DataError where a column is missing, given twice, or differs from a known one only by case or spaces."""
    present = ", ".join(shown(name) for name in names[:20]) or "no columns"
    for name in KNOWN:
        if list(names).count(name) > 1:
            raise DataError(f"{path}: the column {name!r} appears {list(names).count(name)} times; keep one")
    for name in names:
        known = name.strip().lower()
        if known in KNOWN and known not in names:
            raise DataError(
                f"{path}: the column {shown(name)} differs from {known!r} only by case or spaces; rename it"
            )
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise DataError(f"{path}: no column {' and '.join(map(repr, missing))} (present: {present}); rename or add it")
    if ("start" in names) != ("end" in names):
        raise DataError(f"{path}: 'start' and 'end' belong together and only one is present; add the other or drop it")
