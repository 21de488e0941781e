"""One file of a corpus, on the disk or behind any fsspec URL, and the lines in it, read with bounded memory."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, cast

from conceptlab.data.corpora.record import LONGEST
from conceptlab.data.lines import without_mark
from conceptlab.data.table import shown
from conceptlab.errors import DataError

CHUNK = 1 << 18  # bytes


@dataclass(frozen=True)
class SourceFile:
    """A file of `fs` (an fsspec file system) at `path`; `name` is what messages and the fingerprint call it."""

    fs: Any
    path: str
    name: str
    size: int

    @property
    def zipped(self) -> bool:
        """Whether the file is compressed as gzip, by its name."""
        return self.name.lower().endswith(".gz")

    @property
    def kind(self) -> str:
        """The extension that names its kind, `.jsonl` for `a.jsonl.gz`."""
        name = self.name[:-3] if self.zipped else self.name
        return PurePosixPath(name).suffix.lower()

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file's content, unzipped. Raises DataError for what cannot be read, also in the body."""
        with readable(self.name), cast("BinaryIO", self.fs.open(self.path, "rb")) as file:
            if self.zipped:
                with gzip.GzipFile(fileobj=file, mode="rb") as content:
                    yield cast("BinaryIO", content)
            else:
                yield file


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Errors of a file or its file system in the body become a DataError that names it."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: is no whole gzip file ({reason(error)}); compress it again") from error
    except Exception as error:  # each remote file system raises its own kinds
        raise DataError(
            f"{name}: cannot be read ({reason(error)}); check the path, the network and your rights"
        ) from error


def reason(error: BaseException) -> str:
    """What an error says, in one short line."""
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return shown(said, 120).strip("'\"") or type(error).__name__


def pieces(file: BinaryIO) -> Iterator[tuple[bytes, bool]]:
    """The file in pieces of at most CHUNK bytes that hold no line end, and whether a line ends after each."""
    while chunk := file.read(CHUNK):
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield line, True
        if rest:
            yield rest, False


def lines(name: str, file: BinaryIO) -> Iterator[bytes | None]:
    """The lines without their ends, None for one of more than LONGEST bytes; a UTF-8 mark at the beginning is taken off.

    Raises DataError for a file in UTF-16.
    """
    held: list[bytes] = []
    size = 0
    for piece, ends in marked(name, pieces(file)):
        size += len(piece)
        if size > LONGEST:
            held = []
        else:
            held.append(piece)
        if ends:
            yield _line(held, size)
            held, size = [], 0
    if size:
        yield _line(held, size)


def _line(held: list[bytes], size: int) -> bytes | None:
    if size > LONGEST:
        return None
    return (held[0] if len(held) == 1 else b"".join(held)).removesuffix(b"\r")


def marked(name: str, found: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
    """The pieces, the first one without its UTF-8 mark. Raises DataError for a file in UTF-16."""
    for piece, ends in found:
        yield without_mark(name, piece), ends
        break
    yield from found
