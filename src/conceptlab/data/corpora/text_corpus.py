"""Plain text as a corpus: one document a line, blank lines too, or one document a file."""

from collections.abc import Generator

from conceptlab.data.corpora.record import LONGEST, TOO_LONG, Columns, Record
from conceptlab.data.corpora.source_file import SourceFile, lines
from conceptlab.data.lines import decoded, without_mark


def line_records(file: SourceFile, _: Columns, skip: int) -> Generator[Record, None, int]:
    """Every line; what stands before `skip` is counted and not decoded."""
    number = 0
    with file.opened() as content:
        for raw in lines(file.name, content):
            number += 1
            if number > skip:
                yield _record(f"line {number}", raw)
    return number


def whole_records(file: SourceFile, _: Columns, skip: int) -> Generator[Record, None, int]:
    """The file as one document, whose id is the file's name."""
    if skip == 0:
        with file.opened() as content:
            raw = content.read(LONGEST + 1)
        if len(raw) > LONGEST:
            yield Record("", fault=f"the file {TOO_LONG}")
        else:
            yield _record("", without_mark(file.name, raw), file.name)
    return 1


def _record(place: str, raw: bytes | None, id: str | None = None) -> Record:
    if raw is None:
        return Record(place, fault=f"the line {TOO_LONG}")
    try:
        return Record(place, decoded(raw), id)
    except ValueError as error:
        return Record(place, fault=str(error))
