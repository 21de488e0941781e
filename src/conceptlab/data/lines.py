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
            line = raw.removeprefix(_UTF8_BOM) if number == 1 else raw
            if number == 1 and line.startswith(_OTHER_BOMS):
                raise DataError(f"{path}: is UTF-16, not UTF-8; save it as UTF-8")
            yield _decoded(path, number, line)


def _raw_lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while raw := file.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            raise DataError(
                f"{path}, line {number}: is longer than {MAX_LINE:,} bytes; shorten it, or check for an unclosed quote"
            )
        yield raw


def _decoded(path: Path, number: int, raw: bytes) -> str:
    if b"\0" in raw:
        raise DataError(
            f"{path}, line {number}: byte {raw.index(0) + 1} is NUL; the file is damaged or UTF-16, save it as UTF-8"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}, line {number}: byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8; "
            "the file has another encoding or mixes several, save it as UTF-8"
        ) from error
