"""Two-operand arithmetic as prompts: every pair of a grid, or the user's own file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import Table, shown
from conceptlab.errors import DataError, InputError
from conceptlab.model import Model

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """Cells of an operand grid under one operator: `prompts` [cell] that end where the answer follows, and `left`, `right`,
    `result` [cell] as whole numbers. The answers are the results as decimal text."""

    operator: str
    prompts: tuple[str, ...]
    left: np.ndarray
    right: np.ndarray
    result: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def answers(self) -> tuple[str, ...]:
        """The result of each cell as text."""
        return tuple(str(r) for r in self.result.tolist())

    def select(self, cells: Sequence[int] | np.ndarray) -> "Arithmetic":
        """Some of the cells."""
        at = np.asarray(cells, dtype=int)
        return Arithmetic(
            self.operator, tuple(self.prompts[i] for i in at), self.left[at], self.right[at], self.result[at]
        )


def operand_grid(n: int, *, operator: str = "+", form: str = "{a} {op} {b} =") -> Arithmetic:
    """Every pair of operands from 0 to n - 1 (no division by 0), written as `form`. Raises InputError for an operator that is not
    + - * /."""
    if operator not in OPERATORS:
        raise InputError(f"{operator[:20]!r} is no operator here; use one of {' '.join(OPERATORS)}")
    left, right = (axis.reshape(-1) for axis in np.meshgrid(np.arange(n), np.arange(n), indexing="ij"))
    if operator == "/":
        left, right = left[right > 0], right[right > 0]
    result = np.array([OPERATORS[operator](int(a), int(b)) for a, b in zip(left, right, strict=True)])
    prompts = tuple(form.format(a=a, op=operator, b=b) for a, b in zip(left, right, strict=True))
    return Arithmetic(operator, prompts, left, right, result)


def read_arithmetic(path: Path | str) -> Arithmetic:
    """Read CSV, JSON lines or a JSON list with the columns `prompt`, `left`, `right`, `operator`, `answer` (all as text).

    Raises DataError as `read_records`; where a number is no whole number, several operators are mixed (a map belongs to one),
    the answer is not what the operator gives, a prompt does not hold its operands, or a pair occurs twice.
    """
    table = read_records(path, ("prompt", "left", "right", "operator", "answer"))
    prompts, operators = texts_of(table, "prompt"), [cell.strip() for cell in texts_of(table, "operator")]
    if len(set(operators)) > 1 or operators[0] not in OPERATORS:
        found = ", ".join(shown(name) for name in sorted(set(operators))[:5])
        raise DataError(
            f"{path}: operators are {found}; give one of {' '.join(OPERATORS)} in a file, since maps differ"
        )
    left, right, result = (_whole(table, name) for name in ("left", "right", "answer"))
    seen: set[tuple[int, int]] = set()
    for row, (a, b, r) in enumerate(zip(left.tolist(), right.tolist(), result.tolist(), strict=True)):
        if str(a) not in prompts[row] or str(b) not in prompts[row]:
            raise table.error(row, f"the prompt {shown(prompts[row])} does not hold {a} and {b}; write them there")
        if (operators[0] == "/" and b == 0) or OPERATORS[operators[0]](a, b) != r:
            raise table.error(row, f"{a} {operators[0]} {b} is not {r}; correct the answer")
        if (a, b) in seen:
            raise table.error(row, f"{a} and {b} stand in an earlier row, too; keep one of them")
        seen.add((a, b))
    return Arithmetic(operators[0], prompts, left, right, result)


def answer_tokens(model: Model, cells: Arithmetic) -> np.ndarray:
    """The one token of each answer [cell], written with a space before it or without, whichever the model finds likelier.

    Raises InputError, naming the row, where an operand or (both ways) an answer is several tokens or unknown: a neuron's map needs
    a place that has read both operands and says the whole answer.
    """
    batch, special = model.encode(cells.prompts), set(getattr(model.tokenizer, "all_special_ids", ()))
    if batch.offsets is not None:
        for what, spans in zip(("left", "right"), _spans(cells), strict=True):
            for row, at in enumerate(batch.positions_of(spans)):
                if len(at) > 1:
                    raise InputError(
                        f"row {row}: the {what} operand of {shown(cells.prompts[row])} is {len(at)} tokens for {model.name}; use "
                        "operands of one token each"
                    )
    found, problem = [], ""
    for gap in ("", " "):
        whole = model.encode([p + gap + a for p, a in zip(cells.prompts, cells.answers, strict=True)]).ids
        bad = [r for r, (a, b) in enumerate(zip(batch.ids, whole, strict=True)) if b[:-1] != a or b[-1] in special]
        if not bad:
            found.append(np.array([ids[-1] for ids in whole]))
            continue
        problem = f"row {bad[0]}: the answer {cells.answers[bad[0]]!r}"
    if not found:
        raise InputError(
            f"{problem} is not one known token for {model.name}; use operands whose results are one token each"
        )
    logits = model.logits(batch).float().cpu()
    rows = torch.arange(len(cells))
    return max(found, key=lambda ids: float(logits.log_softmax(-1)[rows, torch.from_numpy(ids)].mean()))


def _spans(cells: Arithmetic) -> tuple[list[tuple[int, int] | None], list[tuple[int, int] | None]]:
    """Where both operands of every prompt are written, in characters; None where one is not found."""
    left, right = [], []
    for prompt, a, b in zip(cells.prompts, map(str, cells.left), map(str, cells.right), strict=True):
        first = prompt.find(a)
        second = prompt.find(b, first + len(a)) if first >= 0 else -1
        left.append((first, first + len(a)) if first >= 0 else None)
        right.append((second, second + len(b)) if second >= 0 else None)
    return left, right


def _whole(table: Table, name: str) -> np.ndarray:
    found = []
    for row, cell in enumerate(texts_of(table, name)):
        try:
            found.append(int(cell))
        except ValueError as error:
            raise table.error(row, f"{name!r} is {shown(cell)}; write a whole number") from error
    return np.array(found)
