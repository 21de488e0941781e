"""A data set of the `datasets` library as a corpus: from the hub as a stream, from a folder it saved, or an object in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from conceptlab.data.corpora.record import Columns, Record
from conceptlab.data.corpora.source_file import reason
from conceptlab.data.corpus import Document
from conceptlab.data.table import shown
from conceptlab.errors import DataError
from conceptlab.runs.sealed import record_id

PREFIX = "datasets:"
AT_ONCE = 64  # rows read together from a data set on the disk
SAMPLE = 64  # rows of a stream that its fingerprint reads


@dataclass(frozen=True)
class DatasetCorpus:
    """The rows of a `datasets` Dataset or IterableDataset. `known`: what its fingerprint is made of, None where the rows say it."""

    name: str
    rows: Any
    columns: Columns
    known: Mapping[str, Any] | None = None

    def fingerprint(self) -> str:
        """The sha256 of the columns' names and: the content of a saved folder, the library's own fingerprint of a Dataset, the
        files (address with commit, checksum or time) behind one from the hub, or the description and the first 64 rows of any other
        stream, of which a change further on goes unseen."""
        known = self.known or (self._described() if is_stream(self.rows) else {"made": self.rows._fingerprint})
        return record_id({"kind": "datasets", "text": self.columns.text, "id": self.columns.id, **known})

    def _described(self) -> Mapping[str, Any]:
        info = self.rows.info
        first = [[document.id, document.text, document.fault] for document in islice(self.documents(), SAMPLE)]
        return {"described": f"{info.dataset_name} {info.config_name} {info.version} {info.splits}", "first": first}

    def documents(self, start: int = 0) -> Iterator[Document]:
        """Rows from `start` on; a Dataset begins there at once, a stream skips as its own format allows."""
        rows = iter(self._stream(start) if is_stream(self.rows) else self._table(start))
        index = start
        while True:
            try:
                row = next(rows, None)
            except Exception as error:  # the library and its readers raise many kinds
                raise DataError(
                    f"{self.name}, row {index + 1}: cannot be read ({reason(error)}); check the data set"
                ) from error
            if row is None:
                return
            id = row.get(self.columns.id) if self.columns.id is not None else None
            yield Record(f"row {index + 1}", row.get(self.columns.text), id).document(index, "")
            index += 1

    def _stream(self, start: int) -> Any:
        return self.rows.skip(start) if start else self.rows

    def _table(self, start: int) -> Iterator[dict[str, Any]]:
        rows = self.rows.with_format(None).select_columns(self.columns.names)
        for first in range(start, len(rows), AT_ONCE):
            cells = rows[first : first + AT_ONCE]
            yield from (dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True))

    def check(self) -> None:
        """Raise DataError where a column is missing or there is no row."""
        if self.rows.column_names is not None:
            self.columns.check(self.name, self.rows.column_names)
        if next(self.documents(), None) is None:
            raise DataError(f"{self.name}: is empty; add texts")
        if self.rows.column_names is None:
            self.columns.check(self.name, list(next(iter(self.rows))))


def is_stream(rows: object) -> bool:
    """Whether a data set can only be read from its beginning."""
    return not hasattr(rows, "__len__")


def library(what: str) -> Any:
    """The module `datasets`. Raises DataError where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{what}: needs the datasets library; pip install 'conceptlab[datasets]'") from error
    return datasets


def from_object(rows: Any, columns: Columns) -> DatasetCorpus:
    """A Dataset or IterableDataset as a corpus. Raises DataError for anything else."""
    datasets = library(type(rows).__name__)
    if isinstance(rows, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DataError(f"a data set of the splits {', '.join(rows)} is no corpus; give one of them")
    if not isinstance(rows, datasets.Dataset | datasets.IterableDataset):
        raise DataError(f"{shown(type(rows).__name__)} is no corpus; give a path, a URL or a datasets Dataset")
    return DatasetCorpus(rows.info.dataset_name or "dataset", rows, columns)


def from_folder(folder: str, name: str, columns: Columns, known: Mapping[str, Any]) -> DatasetCorpus:
    """A folder that save_to_disk wrote."""
    try:
        found = library(name).load_from_disk(folder)
    except DataError:
        raise
    except Exception as error:  # the library and its readers raise many kinds
        raise DataError(f"{name}: cannot be read as a saved data set ({reason(error)}); save it again") from error
    return DatasetCorpus(name, found, columns, known)


def from_hub(source: str, columns: Columns) -> DatasetCorpus:
    """`datasets:NAME[:CONFIG][:SPLIT]` as a stream; the split is `train` where none is given."""
    name, *rest = source.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 2 or not all(rest):
        raise DataError(f"{shown(source, 100)}: is not of the form {PREFIX}NAME[:CONFIG][:SPLIT]")
    datasets = library(source)
    try:
        config, split = _chosen(datasets, name, rest)
        rows = datasets.load_dataset(name, config, split=split, streaming=True)
        known = _hub_files(datasets.load_dataset_builder(name, config), split)
    except Exception as error:  # the library, the hub and the network raise many kinds
        raise DataError(
            f"{shown(source, 100)}: cannot be opened ({reason(error)}); check name, config and split"
        ) from error
    return DatasetCorpus(source, rows, columns, known)


def _chosen(datasets: Any, name: str, rest: list[str]) -> tuple[str | None, str]:
    """The config and the split; a single word is a config where the data set has one of that name."""
    if len(rest) == 2:
        return rest[0], rest[1]
    if not rest:
        return None, "train"
    configs = datasets.get_dataset_config_names(name)
    return (rest[0], "train") if rest[0] in configs else (None, rest[0])


def _hub_files(builder: Any, split: str) -> Mapping[str, Any] | None:
    """Addresses (with the commit) and checksums of the files behind a split, None where the builder names none."""
    files = builder.config.data_files
    if not files or split not in files:
        return None
    found = files[split]
    return {
        "split": split,
        "files": [str(file) for file in found],
        "sums": [list(map(str, m)) for m in found.origin_metadata],
    }
