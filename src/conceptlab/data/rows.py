"""The cells of a labelled file beside its labels: texts, groups, the characters to read, and label words."""

from collections.abc import Sequence

import numpy as np

from conceptlab.data.concept import Span
from conceptlab.data.labels import Labels
from conceptlab.data.table import MAX_FIELD, Table, shown


def read_texts(table: Table) -> tuple[str, ...]:
    """Every text. Raises DataError where one is empty, no text, oversized, or not encodable."""
    return tuple(_text(table, row, cell) for row, cell in enumerate(table.columns["text"]))


def _text(table: Table, row: int, cell: object) -> str:
    if cell is None or (isinstance(cell, float) and cell != cell):
        raise table.error(row, "the text is empty; fill it or drop the row")
    if not isinstance(cell, str):
        raise table.error(row, f"the text is {shown(cell)}, not a string; quote it")
    if not cell.strip():
        raise table.error(row, "the text is empty; fill it or drop the row")
    if len(cell) > MAX_FIELD:
        raise table.error(row, f"the text has {len(cell):,} characters, at most {MAX_FIELD:,} are read; shorten it")
    return _clean(table, row, "text", cell)


def _clean(table: Table, row: int, column: str, cell: str) -> str:
    """The cell, when it holds neither NUL nor half of a surrogate pair."""
    if "\0" in cell or any("\ud800" <= character <= "\udfff" for character in cell):
        raise table.error(
            row, f"{column!r} holds NUL or half a surrogate pair; the file is damaged there, write the row again"
        )
    return cell


def read_names(table: Table) -> list[str]:
    """The concept of every row; the file's own name where it has no such column."""
    cells = table.column("concept")
    if cells is None:
        return [table.path.stem] * len(table.places)
    names = []
    for row, cell in enumerate(cells):
        if not isinstance(cell, str) or not cell.strip() or len(cell) > 200:
            raise table.error(
                row, f"the concept is {shown(cell)}; give a name of at most 200 characters, or drop the column"
            )
        names.append(_clean(table, row, "concept", cell.strip()))
    return names


def read_groups(table: Table, rows: Sequence[int], texts: Sequence[str], spans: Sequence[Span]) -> np.ndarray | None:
    """Ids [row] of rows that must share a fold, counted from 0 as they appear; None where all stand alone.

    Without groups in the file, rows that repeat a text and span share a fold: a probe would know them by heart.
    """
    column = table.column("group")
    cells: Sequence[object] = [None] * len(rows) if column is None else [column[row] for row in rows]
    if all(cell is None for cell in cells):
        repeated = list(zip(texts, spans, strict=True))
        return _ids(repeated) if len(set(repeated)) < len(repeated) else None
    for row, cell in zip(rows, cells, strict=True):
        if not isinstance(cell, str | int | float) or cell != cell or (isinstance(cell, str) and not cell.strip()):
            raise table.error(row, f"the group is {shown(cell)}; give every row of this concept a group, or none")
    return _ids([(type(cell).__name__, cell) for cell in cells])


def _ids(keys: Sequence[object]) -> np.ndarray:
    first: dict[object, int] = {}
    return np.asarray([first.setdefault(key, len(first)) for key in keys], dtype=np.int64)


def read_span(table: Table, row: int, text: str) -> Span:
    """The characters of one row to read, None for its last real token. Raises DataError outside the text."""
    starts, ends = table.column("start"), table.column("end")
    if starts is None or ends is None or (starts[row] is None and ends[row] is None):
        return None
    start, end = (_character(table, row, name, cells[row]) for name, cells in (("start", starts), ("end", ends)))
    if not 0 <= start < end <= len(text):
        raise table.error(
            row, f"start {start} and end {end} do not lie in the text of {len(text)} characters; need 0 <= start < end"
        )
    if not text[start:end].strip():
        raise table.error(row, f"the characters {start} to {end} are all spaces; point at some text")
    return start, end


def _character(table: Table, row: int, name: str, cell: object) -> int:
    if isinstance(cell, str) and cell.strip().isdecimal() and len(cell) < 10:
        return int(cell)
    if isinstance(cell, int | float) and not isinstance(cell, bool) and abs(cell) < 1e9 and cell == int(cell):
        return int(cell)
    raise table.error(
        row, f"{name!r} is {shown(cell)}; give both start and end as whole numbers of characters, or leave both empty"
    )


def read_words(table: Table, rows: Sequence[int], labels: Labels, name: str) -> tuple[tuple[str, ...], ...] | None:
    """Label words of each class, in order of appearance; None where the file names none.

    Raises DataError for words of a graded concept, a class without words beside classes with them, and shared words.
    """
    cells = table.column("words")
    named = [row for row in rows if cells is not None and cells[row] not in (None, "", [])]
    if cells is None or not named:
        return None
    if labels.kind == "graded":
        raise table.error(
            named[0], f"words belong to classes, and concept {shown(name)} is graded; leave words empty there"
        )
    words: list[list[str]] = [[] for _ in labels.class_names]
    owner: dict[str, int] = {}
    for row, label in zip(rows, labels.values.tolist(), strict=True):
        for word in _words(table, row, cells[row]):
            if owner.setdefault(word, label) != label:
                raise table.error(
                    row, f"the word {shown(word)} stands for two classes of concept {shown(name)}; keep it in one"
                )
            if word not in words[label]:
                words[label].append(word)
    for class_name, found in zip(labels.class_names, words, strict=True):
        if not found:
            raise table.error(
                named[0],
                f"class {shown(class_name)} of concept {shown(name)} has no words; give every class some, or none",
            )
    return tuple(tuple(found) for found in words)


def _words(table: Table, row: int, cell: object) -> list[str]:
    """The words of one cell: comma separated, or a list whose items keep their spaces."""
    if cell is None:
        return []
    found = [word.strip() for word in cell.split(",")] if isinstance(cell, str) else cell
    if not isinstance(found, list) or not all(isinstance(word, str) and len(word) <= 200 for word in found):
        raise table.error(row, f"words are {shown(cell)}; write them comma separated or as a list of strings")
    return [_clean(table, row, "words", word) for word in found if word.strip()]
