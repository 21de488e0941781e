"""Open a corpus by what it is called: files, folders, globs and fsspec URLs of Parquet, JSON lines, CSV or text, and `datasets`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Union

from conceptlab.data.corpora.dataset_corpus import PREFIX, DatasetCorpus, from_folder, from_hub, from_object
from conceptlab.data.corpora.files_corpus import KINDS, WHOLE_TEXTS, FilesCorpus
from conceptlab.data.corpora.find_sources import find_sources
from conceptlab.data.corpora.fingerprint import fingerprint_of
from conceptlab.data.corpora.record import Columns
from conceptlab.data.corpora.source_file import SourceFile
from conceptlab.data.corpus import Corpus
from conceptlab.errors import DataError

if TYPE_CHECKING:
    import datasets


def open_corpus(
    source: Union[str, Path, "datasets.Dataset", "datasets.IterableDataset"],
    *,
    column: str = "text",
    id_column: str | None = None,
) -> Corpus:
    """Open `source` for streaming; nothing is kept in memory.

    - `a.parquet`, `a.jsonl`, `a.csv`: a row is a document, its text in `column`, its own id in `id_column`.
    - `a.txt`: a line is a document. `.jsonl.gz`, `.csv.gz` and `.txt.gz` are unzipped on the way.
    - a folder: all files of one such kind below it, in sorted order; of .txt files, each is one document. Other files and names
      that begin with `.` or `_` are left out. A glob: the files it matches, each read as if it stood alone.
    - any of these as an fsspec URL (`s3://…`, `gs://…`, `memory://…`).
    - `datasets:NAME[:CONFIG][:SPLIT]` from the Hugging Face hub, a folder saved by save_to_disk, a Dataset or IterableDataset.

    A row that holds no usable text (missing, not a string, not UTF-8, NUL, broken JSON, over 64 MiB) is a Document with a fault.
    Raises DataError for what is not there or cannot be read, an unknown kind, a missing column, or a corpus without documents.
    """
    columns = Columns(column, id_column)
    corpus = _named(source, columns) if isinstance(source, str | Path) else from_object(source, columns)
    corpus.check()
    return corpus


def _named(source: str | Path, columns: Columns) -> FilesCorpus | DatasetCorpus:
    if str(source).startswith(PREFIX):
        return from_hub(str(source), columns)
    folder = _saved(source)
    if folder is not None:
        return _from_saved(folder, columns)
    name, files, in_folder = find_sources(str(source))
    whole = in_folder and files[0].kind == ".txt"
    return FilesCorpus(name, files, WHOLE_TEXTS if whole else KINDS[files[0].kind], columns)


def _saved(source: str | Path) -> Path | None:
    """The folder, where save_to_disk wrote it. Raises DataError for one of several splits."""
    folder = Path(source).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file():
            raise DataError(f"{folder}: holds several splits of a data set; give one of its folders")
        return folder if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file() else None
    except (OSError, ValueError):  # find_sources says what is wrong with the path
        return None


def _from_saved(folder: Path, columns: Columns) -> DatasetCorpus:
    import fsspec

    local = fsspec.filesystem("file")
    found = sorted(os.path.abspath(path) for path in folder.glob("*.arrow"))
    files = [SourceFile(local, path, os.path.basename(path), os.path.getsize(path)) for path in found]
    return from_folder(str(folder), folder.name, columns, {"content": fingerprint_of(files, {})})
