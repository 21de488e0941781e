"""Which kind of concept a column of labels is, and the labels as numbers.

The rule, also printed by `conceptlab map --help`: numbers with more than 10 distinct values, or with a fraction, are
graded; other numbers, booleans and names are classes (two classes: binary). Classes are ordered by value, so
`false` < `true`, 0 < 1.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from conceptlab.data.concept import Kind
from conceptlab.data.table import Table, shown

MAX_NUMERIC_CLASSES = 10
_NUMBER = re.compile(r"[+-]?(\d{1,300}(\.\d{0,300})?|\.\d{1,300})([eE][+-]?\d{1,4})?")
_NOT_NUMBERS = ("inf", "+inf", "-inf", "infinity", "+infinity", "-infinity")

Label = bool | float | str


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of one concept: class ids with their names, or graded values without."""

    values: np.ndarray
    kind: Kind
    class_names: tuple[str, ...]


def read_labels(table: Table, rows: Sequence[int], name: str) -> Labels:
    """Decide the kind of concept `name`, whose rows these are. Raises DataError naming the first bad row."""
    cells = table.columns["label"]
    parsed = [_parsed(table, row, cells[row]) for row in rows]
    if not table.typed:
        parsed = _without_types(parsed)
    _check_one_type(table, rows, parsed, name)
    if isinstance(parsed[0], float):
        return _from_numbers(table, rows, [float(value) for value in parsed], name)
    names = [str(value).lower() if isinstance(value, bool) else str(value) for value in parsed]
    return _classes(table, rows, names, sorted(set(names)), name)


def _parsed(table: Table, row: int, cell: object) -> Label:
    """One cell as bool, float or string."""
    if cell is None:
        raise table.error(row, "the label is empty; give every row a label")
    if isinstance(cell, bool):
        return cell
    if isinstance(cell, int | float):
        return _finite(table, row, cell)
    if not isinstance(cell, str):
        raise table.error(row, f"the label {shown(cell)} is neither a class name nor a number; write one of these")
    text = cell.strip()
    if text.lower() in ("", "nan"):
        raise table.error(row, f"the label is {shown(cell)}; give every row a label")
    if not table.typed and _NUMBER.fullmatch(text):
        return _finite(table, row, float(text))
    return text


def _finite(table: Table, row: int, number: float) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        said = "NaN" if math.isnan(value) else "beyond all measure"
        raise table.error(row, f"the label is {said}; give a finite number or a class name")
    return value


def _without_types(parsed: list[Label]) -> list[Label]:
    """CSV has no booleans: read true/false as such where a column holds nothing else."""
    if all(isinstance(value, str) and value.lower() in ("true", "false") for value in parsed):
        return [str(value).lower() == "true" for value in parsed]
    return parsed


def _check_one_type(table: Table, rows: Sequence[int], parsed: Sequence[Label], name: str) -> None:
    usual = Counter(type(value) for value in parsed).most_common(1)[0][0]
    for row, value in zip(rows, parsed, strict=True):
        if usual is float and isinstance(value, str) and value.lower() in _NOT_NUMBERS:
            raise table.error(row, f"the label is {shown(value)}; give a finite number")
        if type(value) is not usual:
            said = {float: "numbers", bool: "true/false", str: "names"}[usual]
            raise table.error(
                row, f"the label {shown(value)} of concept {shown(name)} among {said}; use one kind of label a concept"
            )


def _from_numbers(table: Table, rows: Sequence[int], numbers: list[float], name: str) -> Labels:
    distinct = sorted(set(numbers))
    whole = all(number.is_integer() for number in distinct)
    if len(distinct) > 1 and (len(distinct) > MAX_NUMERIC_CLASSES or not whole):
        return Labels(np.asarray(numbers, dtype=np.float64), "graded", ())
    text = {number: str(int(number)) if whole else repr(number) for number in distinct}
    return _classes(table, rows, [text[number] for number in numbers], [text[number] for number in distinct], name)


def _classes(table: Table, rows: Sequence[int], names: list[str], order: list[str], concept: str) -> Labels:
    if len(order) == 1:
        message = f"every label of concept {shown(concept)} is {shown(order[0])}; a concept needs at least two classes"
        raise table.error(rows[0], message)
    ids = {name: index for index, name in enumerate(order)}
    kind: Kind = "binary" if len(order) == 2 else "classes"
    return Labels(np.asarray([ids[name] for name in names], dtype=np.int64), kind, tuple(order))
