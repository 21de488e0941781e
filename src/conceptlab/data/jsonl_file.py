"""JSON lines into a Table: one object a line."""

import json
from pathlib import Path

from conceptlab.data.lines import read_lines
from conceptlab.data.table import KNOWN, OPTIONAL, Table, check_header
from conceptlab.errors import DataError


def read_jsonl(path: Path) -> Table:
    """Read one JSON object a line; blank lines are skipped, absent optional keys become None.

    Raises DataError with the line number for broken JSON, a line that is no object, or a key given twice.
    """
    rows: list[dict[str, object]] = []
    places: list[int] = []
    for number, line in enumerate(read_lines(path), start=1):
        if line.strip():
            rows.append(_parsed(path, number, line))
            places.append(number)
            if len(rows) == 1:
                check_header(path, list(rows[0]))
    if not rows:
        raise DataError(f"{path}: is empty; it needs one JSON object a line with the keys text and label")
    kept = [name for name in KNOWN if name not in OPTIONAL or any(name in row for row in rows)]
    check_header(path, kept)
    return Table(path, {name: [row.get(name) for row in rows] for name in kept}, places, "line", typed=True)


def _parsed(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        value = json.loads(line, object_pairs_hook=lambda pairs: _without_repeats(path, number, pairs))
    except json.JSONDecodeError as error:
        message = f"broken JSON at column {error.colno} ({error.msg}); write one JSON object a line"
        raise DataError(f"{path}, line {number}: {message}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, or brackets nested without end
        raise DataError(
            f"{path}, line {number}: JSON that cannot be read ({type(error).__name__}); simplify it"
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f'{path}, line {number}: holds {type(value).__name__}, not an object; write {{"text": …, "label": …}}'
        )
    return value


def _without_repeats(path: Path, number: int, pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DataError(f"{path}, line {number}: a key appears twice; keep one")
    return found
