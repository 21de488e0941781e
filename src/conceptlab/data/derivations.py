"""Prompts whose answer follows from rules in their context, each with another prompt of the same form about other things."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown


@dataclass(frozen=True)
class Derivation:
    """`prompt` up to its `answer`; `noise` has the same form and length and the answer `noise_answer`. The characters before
    `context_end` of the prompt are its context, those after it the question."""

    prompt: str
    answer: str
    noise: str
    noise_answer: str
    context_end: int


def read_derivations(path: Path | str, *, most: int | None = None) -> list[Derivation]:
    """Read CSV, JSON lines or a JSON list with the columns `prompt`, `answer`, `noise`, `noise_answer` (at most `most` rows).

    The context ends with the prompt's last full stop. Raises DataError as `read_records`, and where a prompt has no full stop
    before its end.
    """
    names = ("prompt", "answer", "noise", "noise_answer")
    table = read_records(path, names)
    found = []
    for row, cells in enumerate(zip(*(texts_of(table, name) for name in names), strict=True)):
        if most is not None and row == most:
            break
        end = cells[0].rstrip().rstrip(".").rfind(".") + 1
        if not 0 < end < len(cells[0]):
            raise table.error(
                row, f"the prompt {shown(cells[0])} has no full stop, so where its context ends is not known; write one"
            )
        found.append(Derivation(*cells, context_end=end))
    return found
