"""Clean and corrupted texts with the answer and the distractor of each: one task of patching and circuits, read from a file."""

from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.records import KINDS, read_records, texts_of
from conceptlab.data.table import Table, shown
from conceptlab.errors import DataError

COLUMNS = ("clean", "corrupted", "answer", "distractor")


@dataclass(frozen=True)
class AnswerPairs:
    """One task: `clean` and `corrupted` texts that end before the answer, the right next word of each clean text (`answer`) and
    the one it stands against. `marked` holds a piece of each clean text, where the file has the column that was asked for."""

    name: str
    clean: tuple[str, ...]
    corrupted: tuple[str, ...]
    answer: tuple[str, ...]
    distractor: tuple[str, ...]
    marked: tuple[str, ...] | None = None

    def spans(self) -> list[tuple[int, int]]:
        """Characters [start, end) of the last place where each marked piece stands in its clean text."""
        pieces = self.marked or ()
        found = [(text.rindex(piece), len(piece)) for text, piece in zip(self.clean, pieces, strict=True)]
        return [(start, start + size) for start, size in found]


def read_answer_pairs(path: Path | str, *, marks: str = "", most: int | None = None) -> AnswerPairs:
    """Read CSV, JSON lines or a JSON list with the columns clean, corrupted, answer, distractor (at most `most` rows).

    `marks` names an optional column whose cells are pieces of the clean text. Raises DataError as `read_records`, and where answer
    and distractor are one, clean and corrupted are one, or a piece does not stand in its text.
    """
    table = read_records(path, COLUMNS, (marks,) if marks else ())
    columns = {name: texts_of(table, name)[:most] for name in COLUMNS}
    marked = texts_of(table, marks)[:most] if marks and table.column(marks) is not None else None
    _check(table, columns, marks, marked)
    return AnswerPairs(Path(path).stem, **columns, marked=marked)


def read_tasks(folder: Path | str, *, marks: str = "", most: int | None = None) -> list[AnswerPairs]:
    """One task for every file of pairs in a folder, by name. Raises DataError where there are fewer than two."""
    folder = Path(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in KINDS) if folder.is_dir() else []
    if len(files) < 2:
        raise DataError(
            f"{folder}: holds {len(files)} files of pairs; give a folder with one file a task, at least two, with the columns "
            f"{', '.join(COLUMNS)}"
        )
    return [read_answer_pairs(path, marks=marks, most=most) for path in files]


def _check(table: Table, columns: dict[str, tuple[str, ...]], marks: str, marked: tuple[str, ...] | None) -> None:
    for row, (clean, corrupted, answer, distractor) in enumerate(zip(*columns.values(), strict=True)):
        if answer.strip() == distractor.strip():
            raise table.error(row, f"answer and distractor are both {shown(answer)}; give two different words")
        if clean == corrupted:
            raise table.error(row, "clean and corrupted are the same text; corrupt what the answer depends on")
        if marked is not None and marked[row] not in clean:
            raise table.error(row, f"{marks!r} is {shown(marked[row])}, which does not stand in the clean text")
