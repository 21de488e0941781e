"""CSV as a corpus: a header line, then rows whose quoted cells may hold line ends; blank lines are no rows.

Rows are cut by following the quotes alone, so that rows can be skipped without parsing and a quote that never closes fills no
memory; each row is then parsed by the standard library.
"""

import csv
import re
from collections.abc import Generator, Iterator
from typing import Literal

from conceptlab.data.corpora.record import LONGEST, TOO_LONG, Columns, Record
from conceptlab.data.corpora.source_file import SourceFile, marked, pieces
from conceptlab.errors import DataError

State = Literal["cell begins", "plain", "quoted", "quote seen"]
_INSIDE = re.compile(rb'[^"]*+(?:""[^"]*+)*+')  # up to the quote that may close a cell
USUAL = 131072  # characters of a cell that the standard library takes without being asked


def csv_records(file: SourceFile, columns: Columns, skip: int) -> Generator[Record, None, int]:
    """Every row below the header. Raises DataError for a header that cannot be read or lacks a column."""
    rows = _rows(file)
    header = _header(file, rows)
    columns.check(file.name, header)
    number = 0
    for line, raw in rows:
        number += 1
        if number > skip:
            yield _record(columns, header, f"line {line}", raw)
    return number


def check_csv(file: SourceFile, columns: Columns) -> None:
    """Raise DataError for a header that cannot be read or lacks a column."""
    columns.check(file.name, _header(file, _rows(file)))


def _header(file: SourceFile, rows: Iterator[tuple[int, bytes | None]]) -> list[str]:
    _, raw = next(rows, (0, b""))
    cells = _cells(raw)
    if isinstance(cells, str):
        raise DataError(f"{file.name}: the header line cannot be read: {cells}; write the names of the columns there")
    for name in cells:
        if cells.count(name) > 1:
            raise DataError(f"{file.name}: the column {name!r} appears {cells.count(name)} times; keep one")
    return cells


def _record(columns: Columns, header: list[str], place: str, raw: bytes | None) -> Record:
    cells = _cells(raw)
    if isinstance(cells, str):
        return Record(place, fault=cells)
    if len(cells) != len(header):
        return Record(place, fault=f"{len(cells)} cells where the header has {len(header)}")
    id = cells[header.index(columns.id)] or None if columns.id is not None else None
    return Record(place, cells[header.index(columns.text)], id)


def _cells(raw: bytes | None) -> list[str] | str:
    """The cells of a row, or what is wrong with the row."""
    if raw is None:
        return f"the row {TOO_LONG}, or close its quote"
    text = raw.decode("utf-8", "surrogateescape")
    usual = csv.field_size_limit(LONGEST) if len(text) > USUAL else None
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        return f"broken quoting ({error})"
    finally:
        if usual is not None:
            csv.field_size_limit(usual)


def _rows(file: SourceFile) -> Iterator[tuple[int, bytes | None]]:
    """The line each row begins at, and the row, None where it has more than LONGEST bytes."""
    with file.opened() as content:
        state: State = "cell begins"
        held: list[bytes] = []
        size, line, first = 0, 1, 1
        for piece, ends in marked(file.name, pieces(content)):
            state = _after(state, piece)
            size = _hold(held, size, piece)
            line += ends
            if ends and state == "quoted":
                size = _hold(held, size, b"\n")
            elif ends:
                if not _blank(held, size):
                    yield first, _row(held, size)
                held, size, state, first = [], 0, "cell begins", line
        if not _blank(held, size):
            yield first, _row(held, size)


def _blank(held: list[bytes], size: int) -> bool:
    return size <= LONGEST and all(not part or part.isspace() for part in held)


def _hold(held: list[bytes], size: int, piece: bytes) -> int:
    """Add a piece to a row, or let the row go where it is too long; the row's new size."""
    held.append(piece)
    if size + len(piece) > LONGEST:
        held.clear()
    return size + len(piece)


def _row(held: list[bytes], size: int) -> bytes | None:
    return b"".join(held).removesuffix(b"\r") if size <= LONGEST else None


def _after(state: State, piece: bytes) -> State:
    """Where in a row the parser stands after a piece without line ends."""
    if state in ("cell begins", "plain") and b'"' not in piece:
        return "plain" if piece and not piece.endswith(b",") else "cell begins" if piece else state
    at = 0
    while at < len(piece):
        state, at = _step(state, piece, at)
    return state


def _step(state: State, piece: bytes, at: int) -> tuple[State, int]:
    if state == "quoted":
        end = _INSIDE.match(piece, at).end()  # type: ignore[union-attr]  # it matches the empty string too
        return ("quote seen", end + 1) if end < len(piece) else ("quoted", end)
    if state == "plain":
        found = piece.find(b",", at)
        return ("cell begins", found + 1) if found >= 0 else ("plain", len(piece))
    quote = piece.startswith(b'"', at)
    return ("quoted", at + 1) if quote else ("plain", at)
