"""Arithmetic: the grid, the user's file with every mistake in one line, and the library of heuristics."""

import json

import numpy as np
import pytest

from conceptlab.data.arithmetic import operand_grid, read_arithmetic
from conceptlab.data.heuristics import KINDS, MIN_CELLS, MOST, heuristic_library
from conceptlab.errors import DataError, InputError


@pytest.mark.parametrize(("operator", "n", "last"), [("+", 25, 8), ("-", 25, 0), ("*", 25, 16), ("/", 20, 1)])
def test_a_grid_holds_every_pair_once(operator, n, last):
    grid = operand_grid(5, operator=operator)
    assert len(grid) == n == len(set(zip(grid.left.tolist(), grid.right.tolist(), strict=True)))
    assert grid.prompts[-1] == f"4 {operator} 4 =" and grid.answers[-1] == str(last)
    assert grid.select([n - 1]).result.tolist() == [last]


def test_an_unknown_operator_is_refused():
    with pytest.raises(InputError, match="no operator"):
        operand_grid(5, operator="%")


def row(**changed):
    return {"prompt": "3+4=", "left": "3", "right": "4", "operator": "+", "answer": "7", **changed}


def test_files_are_read(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in (row(), row(prompt="9+2=", left="9", right="2", answer="11"))))
    found = read_arithmetic(path)
    assert found.prompts == ("3+4=", "9+2=") and found.result.tolist() == [7, 11] and found.operator == "+"
    csv = tmp_path / "sums.csv"
    csv.write_text("prompt,left,right,operator,answer\n3+4=,3,4,+,7\n")
    assert read_arithmetic(csv).answers == ("7",)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(left="three")], "write a whole number"),
        ([row(answer="8")], r"3 \+ 4 is not 8"),
        ([row(operator="%")], "give one of"),
        ([row(), row(prompt="4-3=", left="4", right="3", operator="-", answer="1")], "since maps differ"),
        ([row(prompt="a+4=")], "does not hold 3 and 4"),
        ([row(), row()], "earlier row"),
        ([row(prompt="3/0=", operator="/", right="0")], "is not 7"),
        ([{"prompt": "3+4="}], "no column"),
        ([], "has no records"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path, rows, says):
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    with pytest.raises(DataError, match=says) as caught:
        read_arithmetic(path)
    assert "\n" not in str(caught.value) and "sums.jsonl" in str(caught.value)


def test_the_library_says_what_its_names_say():
    grid = operand_grid(12, operator="-")
    library = heuristic_library(grid)
    assert set(library.kinds) == set(KINDS)
    assert (library.mask("result mod 3 = 2") == (grid.result % 3 == 2)).all()
    assert (library.mask("left in 2..4") == ((grid.left >= 2) & (grid.left <= 4))).all()
    assert (library.mask("identical operands") == (grid.left == grid.right)).all()
    assert (
        library.reads_result[library.names.index("result >= 3")]
        and not library.reads_result[library.names.index("right <= 3")]
    )
    with pytest.raises(KeyError):
        library.mask("left mod 99 = 1")


def test_digits_of_large_numbers_are_patterns():
    grid = operand_grid(120).select(np.arange(0, 14400, 7))
    library = heuristic_library(grid)
    at = library.mask("result has digit 3 at place 1")
    assert (at == (grid.result // 10 % 10 == 3)).all() and "pattern" in library.kinds


def test_sets_of_cells_are_kept_once_and_are_neither_small_nor_large():
    library = heuristic_library(operand_grid(10))
    assert len(np.unique(library.masks, axis=0)) == len(library) == len(set(library.names))
    assert (library.masks.sum(1) >= MIN_CELLS).all() and (library.base <= MOST).all()


def test_too_few_cells_are_refused():
    with pytest.raises(InputError, match="too few for any heuristic"):
        heuristic_library(operand_grid(2))
