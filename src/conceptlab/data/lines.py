"""Text files line by line, as UTF-8 and nothing else; a bad byte is named by its line and place."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from conceptlab.data.table import MAX_FIELD
from conceptlab.errors import DataError

MAX_LINE = 8 * MAX_FIELD  # bytes; a longer line is refused before it fills the memory
_UTF8_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines with their ends. Raises DataError for another encoding, NUL bytes, or an oversized line."""
    with path.open("rb") as file:
        for number, raw in enumerate(_raw_lines(path, file), start=1):
            line = without_mark(path, raw) if number == 1 else raw
            try:
                yield decoded(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error


def without_mark(path: Path | str, start: bytes) -> bytes:
    """The start of a file without its UTF-8 mark. Raises DataError where it is UTF-16."""
    if start.startswith(_OTHER_BOMS):
        raise DataError(f"{path}: is UTF-16, not UTF-8; save it as UTF-8")
    return start.removeprefix(_UTF8_BOM)


def _raw_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            raise DataError(
                f"{path}, line {number}: is longer than {MAX_LINE:,} bytes; shorten it, or check for an unclosed quote"
            )
        yield raw


def decoded(raw: bytes) -> str:
    """One line as text. Raises ValueError that says which byte is NUL or not UTF-8."""
    if b"\0" in raw:
        raise ValueError(f"byte {raw.index(0) + 1} is NUL; the file is damaged or UTF-16, save it as UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8; "
            "the file has another encoding or mixes several, save it as UTF-8"
        ) from error
