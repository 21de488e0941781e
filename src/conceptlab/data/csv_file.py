"""CSV into a Table. The standard library's parser, because it alone gives exact line numbers for ragged rows."""

import csv
from collections.abc import Iterator
from pathlib import Path

from conceptlab.data.lines import read_lines
from conceptlab.data.table import KNOWN, MAX_FIELD, Table, check_header
from conceptlab.errors import DataError


def read_csv(path: Path) -> Table:
    """Read a comma-separated file with a header line; every cell stays a string, an empty one becomes None.

    Raises DataError for ragged rows, unclosed quotes, oversized cells and a bad header.
    """
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: is empty; it needs a header line with the columns text and label, and rows")
    header = first[1]
    check_header(path, header)
    kept = {name: header.index(name) for name in KNOWN if name in header}
    columns: dict[str, list[object]] = {name: [] for name in kept}
    places: list[int] = []
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(cells)} cells where the header has {len(header)}; quote commas in a text"
            )
        places.append(line)
        for name, index in kept.items():
            columns[name].append(cells[index] or None)
    return Table(path, columns, places, "line", typed=False)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (first line, cells) of every row that is not blank."""
    reader = csv.reader(read_lines(path), strict=True)
    limit = csv.field_size_limit(MAX_FIELD)
    last = 0
    try:
        for cells in reader:
            if cells:
                yield last + 1, cells
            last = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}, line {last + 1}: {_explained(error)}") from error
    finally:
        csv.field_size_limit(limit)


def _explained(error: csv.Error) -> str:
    text = str(error)
    if "field limit" in text:
        return f"a cell is longer than {MAX_FIELD:,} characters; close its quote or shorten it"
    if "end of data" in text:
        return "a quote opens here and never closes; close it or double the quotes inside a text"
    if "new-line" in text:
        return "line ends are single carriage returns; save the file with ordinary line ends"
    return f"broken quoting ({text}); put the cell in double quotes and double the quotes inside it"
