"""A file of records with columns that the caller names: CSV, JSON lines, or one JSON list of objects; every cell is a text."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from conceptlab.data.lines import read_lines
from conceptlab.data.table import MAX_FIELD, Table, shown
from conceptlab.errors import DataError

KINDS = (".csv", ".jsonl", ".json")


def read_records(path: Path | str, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Columns `required` and, where the file has them, `optional`; other columns are ignored.

    Raises DataError, naming the line or record: a file that is missing, empty, of another kind or damaged, a column that is
    missing, a cell that is empty or no text.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(KINDS)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file; check the path")
    found = list(_readers[path.suffix.lower()](path))
    if not found:
        raise DataError(f"{path}: has no records; it needs the columns {', '.join(required)}, and rows")
    present = set().union(*(record for _, record in found))
    missing = [name for name in required if name not in present]
    if missing:
        there = ", ".join(shown(name) for name in sorted(present)[:20])
        raise DataError(f"{path}: no column {' and '.join(map(repr, missing))} (present: {there}); rename or add it")
    kept = [*required, *(name for name in optional if name in present)]
    columns = {name: [record.get(name) for _, record in found] for name in kept}
    table = Table(
        path, columns, [place for place, _ in found], "record" if path.suffix == ".json" else "line", typed=False
    )
    _check_cells(table)
    return table


def texts_of(table: Table, name: str) -> tuple[str, ...]:
    """One column, every cell of which `read_records` found to be a text."""
    return tuple(str(cell) for cell in table.columns[name])


def _check_cells(table: Table) -> None:
    for name, cells in table.columns.items():
        for row, cell in enumerate(cells):
            if not isinstance(cell, str) or not cell.strip():
                said = "empty" if cell is None or cell == "" else f"{shown(cell)}, which is no text"
                raise table.error(row, f"{name!r} is {said}; fill it or drop the row")
            if len(cell) > MAX_FIELD:
                raise table.error(
                    row, f"{name!r} has {len(cell):,} characters, at most {MAX_FIELD:,} are read; shorten it"
                )


def _csv(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    reader, limit = csv.reader(read_lines(path), strict=True), csv.field_size_limit(MAX_FIELD)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                header = cells
            elif len(cells) not in (0, len(header)):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells where the header has {len(header)}; quote its commas"
                )
            elif cells:
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: broken quoting ({error}); put the cell in double quotes"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            yield number, _object(path, f"line {number}", line)


def _json(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    whole = _loaded(path, "the whole file", "".join(read_lines(path)))
    if not isinstance(whole, list):
        raise DataError(f"{path}: holds {type(whole).__name__}, not a list of objects; write [{{…}}, …] or JSON lines")
    for number, record in enumerate(whole, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{path}, record {number}: holds {type(record).__name__}, not an object; write {{…}}")
        yield number, record


def _object(path: Path, where: str, text: str) -> dict[str, object]:
    found = _loaded(path, where, text)
    if not isinstance(found, dict):
        raise DataError(f"{path}, {where}: holds {type(found).__name__}, not an object; write one JSON object a line")
    return found


def _loaded(path: Path, where: str, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}, {where}: JSON that cannot be read ({str(error) or type(error).__name__}); correct it"
        ) from error


_readers = {".csv": _csv, ".jsonl": _jsonl, ".json": _json}
