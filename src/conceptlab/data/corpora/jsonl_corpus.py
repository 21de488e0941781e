"""JSON lines as a corpus: one object a line; blank lines are no rows."""

import json
from collections.abc import Generator, Iterator
from itertools import islice

from conceptlab.data.corpora.record import TOO_LONG, Columns, Record
from conceptlab.data.corpora.source_file import SourceFile, lines
from conceptlab.data.lines import decoded
from conceptlab.data.table import shown

PEEK = 100  # rows among which a column must appear


def jsonl_records(file: SourceFile, columns: Columns, skip: int) -> Generator[Record, None, int]:
    """Every object; what stands before `skip` is counted and not parsed."""
    number = 0
    for line, raw in _rows(file):
        number += 1
        if number > skip:
            yield _record(columns, f"line {line}", raw)
    return number


def check_jsonl(file: SourceFile, columns: Columns) -> None:
    """Raise DataError where none of the first rows has the column of the text or the id."""
    present: dict[str, None] = {}
    for _, raw in islice(_rows(file), PEEK):
        found = _parsed(raw)
        present |= dict.fromkeys(found if isinstance(found, dict) else columns.names)
    columns.check(file.name, list(present))


def _rows(file: SourceFile) -> Iterator[tuple[int, bytes | None]]:
    with file.opened() as content:
        for line, raw in enumerate(lines(file.name, content), start=1):
            if raw is None or not raw.isspace() and raw:
                yield line, raw


def _record(columns: Columns, place: str, raw: bytes | None) -> Record:
    found = _parsed(raw)
    if isinstance(found, str):
        return Record(place, fault=found)
    id = found.get(columns.id) if columns.id is not None else None
    return Record(place, found.get(columns.text), id)


def _parsed(raw: bytes | None) -> dict[str, object] | str:
    """The object of a line, or what is wrong with the line."""
    if raw is None:
        return f"the line {TOO_LONG}"
    try:
        found = json.loads(decoded(raw))
    except json.JSONDecodeError as error:
        return f"broken JSON at column {error.colno} ({error.msg})"
    except RecursionError:
        return "JSON that is nested too deep"
    except ValueError as error:  # bytes that are not UTF-8, or numbers of thousands of digits
        return " ".join(str(error).split())
    return found if isinstance(found, dict) else f"holds {shown(found)}, not a JSON object"
