"""What every reader gives: one record a row or line, and which column holds the text."""

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptlab.data.corpus import Document
from conceptlab.data.table import shown
from conceptlab.errors import DataError

if TYPE_CHECKING:
    from conceptlab.data.corpora.source_file import SourceFile

LONGEST = 64 << 20  # bytes of a line, and characters of a text; what is longer is never held whole
TOO_LONG = f"is longer than {LONGEST >> 20} MiB; cut it into several"
_BROKEN = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True)
class Columns:
    """The column of the text and the one of the documents' own ids, if any."""

    text: str = "text"
    id: str | None = None

    @property
    def names(self) -> list[str]:
        """The columns to read, each once."""
        return list(dict.fromkeys([self.text, *([self.id] if self.id is not None else [])]))

    def check(self, where: str, present: list[str]) -> None:
        """Raise DataError where a file lacks one of them."""
        for name in self.names:
            if name not in present:
                listed = ", ".join(shown(n) for n in present[:20]) or "no columns"
                raise DataError(f"{where}: no column {shown(name)} (present: {listed}); name one of these")


@dataclass(frozen=True)
class Record:
    """One row as it was read: its place in the file, its raw cells, or what kept them from being read."""

    place: str
    text: object = None
    id: object = None
    fault: str | None = None

    def document(self, index: int, where: str) -> Document:
        """As a Document, with the fault named where the cell is no text. `where`: the file, where there are several."""
        place = f"{where}, {self.place}" if where and self.place else where or self.place
        id, fault = _id(self.id)
        fault = self.fault or _fault(self.text) or fault
        if fault is not None or not isinstance(self.text, str):
            return Document(index, "", place, id, fault)
        return Document(index, self.text, place, id)


Read = Callable[["SourceFile", Columns, int], Generator[Record, None, int]]
"""(file, columns, skip) -> the records after the first `skip`; what the generator returns is the number of all records."""


def _fault(text: object) -> str | None:
    if text is None or (isinstance(text, float) and text != text):
        return "the text is missing"
    if not isinstance(text, str):
        return f"the text is {shown(text)}, not a string"
    if len(text) > LONGEST:
        return f"the text {TOO_LONG}"
    if not text.isascii() or "\0" in text:
        found = _BROKEN.search(text)
        return f"character {found.start() + 1} {_named(found[0])}" if found else None
    return None


def _named(character: str) -> str:
    if character == "\0":
        return "is NUL"
    if "\udc80" <= character <= "\udcff":
        return f"(0x{ord(character) & 0xFF:02x}) is not UTF-8, or is half a surrogate pair"
    return "is half a surrogate pair"


def _id(value: object) -> tuple[str | None, str | None]:
    """The id as text, and what is wrong with it."""
    if value is None:
        return None, None
    if (
        isinstance(value, bool)
        or not isinstance(value, str | int)
        or len(text := str(value)) > 1000
        or _BROKEN.search(text)
    ):
        return None, f"the id is {shown(value)}, not a whole number or a string of at most 1,000 clean characters"
    return text, None
