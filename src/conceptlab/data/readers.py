"""A labelled file (CSV, Parquet, JSONL) into a ConceptSet, with every problem named in one line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from conceptlab.data.concept import Concept, ConceptSet
from conceptlab.data.csv_file import read_csv
from conceptlab.data.jsonl_file import read_jsonl
from conceptlab.data.labels import Labels, read_labels
from conceptlab.data.parquet_file import read_parquet
from conceptlab.data.rows import read_groups, read_names, read_span, read_texts, read_words
from conceptlab.data.table import Table, shown
from conceptlab.errors import DataError

FOLDS = 5
MIN_GRADED = 2 * FOLDS
READERS = {".csv": read_csv, ".parquet": read_parquet, ".jsonl": read_jsonl}


def read_concepts(path: Path | str) -> ConceptSet:
    """Read a labelled file.

    Columns: `text`, `label`; optional `concept` (several in one file), `group` (rows that must share a fold),
    `start` and `end` (characters to read; default the last real token), `words` (label words of the row's class).
    `labels.py` states how the kind of a concept is decided.
    Raises DataError: the file, the line or row, what is wrong and what to do.
    """
    path = Path(path)
    table = _checked_reader(path)(path)
    if not table.places:
        raise DataError(f"{path}: has a header and no rows; add rows")
    texts, names = read_texts(table), read_names(table)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows_of.setdefault(name, []).append(row)
    return ConceptSet(path.stem, tuple(_concept(table, rows, texts, name) for name, rows in rows_of.items()))


def _checked_reader(path: Path) -> Callable[[Path], Table]:
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; give one CSV, Parquet or JSONL file in it")
        if not path.exists():
            raise DataError(f"{path}: no such file; check the path")
        if not path.is_file():
            raise DataError(f"{path}: is not an ordinary file; give a CSV, Parquet or JSONL file")
        path.open("rb").close()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{shown(str(path), 100)}: cannot be opened ({getattr(error, 'strerror', None) or error}); check the path"
        ) from error
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty; it needs the columns text and label, and rows")
    return reader


def _concept(table: Table, rows: list[int], texts: tuple[str, ...], name: str) -> Concept:
    labels = read_labels(table, rows, name)
    own = tuple(texts[row] for row in rows)
    spans = tuple(read_span(table, row, texts[row]) for row in rows)
    groups = read_groups(table, rows, own, spans)
    _check_enough(table, rows, labels, groups, name)
    words = read_words(table, rows, labels, name)
    return Concept(name, own, labels.values, labels.kind, labels.class_names, groups, spans, words)


def _check_enough(table: Table, rows: list[int], labels: Labels, groups: np.ndarray | None, name: str) -> None:
    """Raise DataError unless every class can appear in each of the folds, groups kept whole."""
    need = f"{FOLDS} folds need at least"
    if labels.kind == "graded" and len(rows) < MIN_GRADED:
        message = f"graded concept {shown(name)} has {len(rows)} rows; {need} {MIN_GRADED}, add rows"
        raise table.error(rows[0], message)
    for label, class_name in enumerate(labels.class_names):
        members = labels.values == label
        what = f"class {shown(class_name)} of concept {shown(name)}"
        if members.sum() < FOLDS:
            raise table.error(rows[0], f"{what} has {members.sum()} rows; {need} {FOLDS}, add rows or drop the class")
        _check_groups(table, rows, groups, members, what)
    _check_groups(table, rows, groups, np.ones(len(rows), dtype=bool), f"concept {shown(name)}")


def _check_groups(table: Table, rows: list[int], groups: np.ndarray | None, members: np.ndarray, what: str) -> None:
    count = FOLDS if groups is None else np.unique(groups[members]).size
    if count < FOLDS:
        message = f"{what} lies in {count} groups (or repeated texts); {FOLDS} folds need at least {FOLDS}"
        raise table.error(rows[0], f"{message}, use finer groups or add rows")
