"""Texts that hide their reasoning behind filler tokens, each beside the same text with its steps written out."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import read_records, texts_of
from conceptlab.data.table import shown


@dataclass(frozen=True)
class FillerText:
    """`prompt` holds fillers and ends before its `answer`; `written` is the same text with a step in place of each filler."""

    prompt: str
    written: str
    answer: str


def read_filler_texts(path: Path | str, *, most: int | None = None) -> list[FillerText]:
    """Read CSV, JSON lines or a JSON list with the columns `prompt`, `written`, `answer` (at most `most` rows).

    Raises DataError as `read_records`, and where a prompt is already what is written.
    """
    names = ("prompt", "written", "answer")
    table = read_records(path, names)
    found = []
    for row, cells in enumerate(zip(*(texts_of(table, name) for name in names), strict=True)):
        if most is not None and row == most:
            break
        if cells[0] == cells[1]:
            raise table.error(
                row, f"prompt and written are both {shown(cells[0])}; write fillers into one, steps into the other"
            )
        found.append(FillerText(*cells))
    return found
