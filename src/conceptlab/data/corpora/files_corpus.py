"""Files of one kind, one after the other, as one corpus."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from conceptlab.data.corpora.csv_corpus import check_csv, csv_records
from conceptlab.data.corpora.fingerprint import fingerprint_of
from conceptlab.data.corpora.jsonl_corpus import check_jsonl, jsonl_records
from conceptlab.data.corpora.parquet_corpus import check_parquet, parquet_records
from conceptlab.data.corpora.record import Columns, Read
from conceptlab.data.corpora.source_file import SourceFile
from conceptlab.data.corpora.text_corpus import line_records, whole_records
from conceptlab.data.corpus import Document
from conceptlab.errors import DataError


@dataclass(frozen=True)
class Kind:
    """How one kind of file is read: `read`, and `check`, which raises DataError for a column that is not there."""

    name: str
    read: Read
    check: Callable[[SourceFile, Columns], None] | None
    zipped: bool = True


KINDS = {
    ".parquet": Kind("parquet", parquet_records, check_parquet, zipped=False),
    ".jsonl": Kind("jsonl", jsonl_records, check_jsonl),
    ".csv": Kind("csv", csv_records, check_csv),
    ".txt": Kind("lines", line_records, None),
}
WHOLE_TEXTS = Kind("texts", whole_records, None)


@dataclass(frozen=True)
class FilesCorpus:
    """The documents of `files`, counted over all of them in their order."""

    name: str
    files: Sequence[SourceFile]
    kind: Kind
    columns: Columns

    def fingerprint(self) -> str:
        """The sha256 of how the files are read and of each file's name, size and content, as `fingerprint_of` says."""
        reading = {"kind": self.kind.name}
        if self.kind.check is not None:
            reading |= {"text": self.columns.text, "id": self.columns.id or ""}
        return fingerprint_of(self.files, reading)

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Documents from `start` on; those before it are counted, not parsed, and whole row groups of Parquet not even read."""
        before = 0
        for file in self.files:
            skip = max(0, start - before)
            where = file.name if len(self.files) > 1 or self.kind is WHOLE_TEXTS else ""
            records = self.kind.read(file, self.columns, skip)
            index = before + skip
            while True:
                try:
                    record = next(records)
                except StopIteration as end:
                    before += end.value
                    break
                yield record.document(index, where)
                index += 1

    def check(self) -> None:
        """Raise DataError where there is no document, or the first file with any lacks a column."""
        for file in self.files:
            if next(self.kind.read(file, self.columns, 0), None) is not None:
                if self.kind.check is not None:
                    self.kind.check(file, self.columns)
                return
        where = f"{len(self.files):,} files without a document" if len(self.files) > 1 else "no document"
        raise DataError(f"{self.name}: is empty ({where}); add texts")
