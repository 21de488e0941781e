"""A file of questions with several answers (CSV, JSONL or Parquet) into Questions, every mistake in one line.

Columns: `prompt` (a text that the answers continue), `subject` (a piece of the prompt), `answers` (at least three that differ:
a list, or text separated by commas).
"""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.lines import read_lines
from conceptlab.data.table import shown
from conceptlab.errors import DataError

COLUMNS = ("prompt", "subject", "answers")
FEWEST = 3


@dataclass(frozen=True)
class Question:
    """A `prompt` that names its `subject`, and `answers` of which any may be said."""

    prompt: str
    subject: str
    answers: tuple[str, ...]


def read_questions(path: Path | str) -> list[Question]:
    """Read a file of questions. Raises DataError: the file, the line, what is wrong and what to do."""
    path = Path(path)
    found = [_question(where, row) for where, row in _rows(path)]
    if not found:
        raise DataError(f"{path}: has no rows; give questions with the columns {', '.join(COLUMNS)}")
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """(place, row) of every row, for messages that say where."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give a CSV, JSONL or Parquet file")
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from _csv_rows(path)
    elif kind == ".jsonl":
        yield from _jsonl_rows(path)
    elif kind == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise DataError(f"{path}: unknown kind of file {kind!r}; use .csv, .jsonl or .parquet")


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    reader = csv.DictReader(read_lines(path), strict=True)
    try:
        _check_columns(path, list(reader.fieldnames or []))
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}, line {reader.line_num}: another number of cells than the header; quote commas"
                )
            yield f"{path}, line {reader.line_num}", row
    except csv.Error as error:
        raise DataError(
            f"{path}, line {reader.line_num}: broken quoting ({error}); double the quotes inside a cell"
        ) from error


def _jsonl_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: broken JSON; write one object a line") from error
        if not isinstance(row, dict):
            raise DataError(f'{where}: no object; write {{"prompt": ..., "subject": ..., "answers": [...]}}')
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise DataError(
                f"{where}: no key {' and '.join(map(repr, missing))}; every question needs {', '.join(COLUMNS)}"
            )
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow.names)
            rows = file.read(columns=list(COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({shown(str(error), 80)}); write it again") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _check_columns(path: Path, names: list[str]) -> None:
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        present = ", ".join(shown(n) for n in names[:20]) or "none"
        raise DataError(f"{path}: no column {' and '.join(map(repr, missing))} (present: {present}); rename or add it")


def _question(where: str, row: Mapping[str, object]) -> Question:
    prompt, subject = (_text(where, name, row[name]) for name in ("prompt", "subject"))
    subject = subject.strip()
    if subject not in prompt:
        raise DataError(
            f"{where}: the prompt {shown(prompt)} does not hold the subject {shown(subject)}; write it there"
        )
    cell = row["answers"]
    answers = cell.split(",") if isinstance(cell, str) else cell
    if not isinstance(answers, (list, tuple)) or not all(isinstance(a, str) for a in answers):
        raise DataError(f"{where}: answers are {shown(cell)}; give a list of texts, or text separated by commas")
    names = tuple(a.strip() for a in answers if a.strip())
    if len({name.casefold() for name in names}) < max(FEWEST, len(names)):
        raise DataError(f"{where}: {len(names)} answers ({shown(', '.join(names))}); give at least {FEWEST}, each once")
    return Question(prompt.rstrip(), subject, names)


def _text(where: str, name: str, cell: object) -> str:
    if not isinstance(cell, str) or not cell.strip():
        raise DataError(f"{where}: {name!r} is {shown(cell)}; fill it with text")
    return cell
