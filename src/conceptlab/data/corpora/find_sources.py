"""Which files a path, folder, glob or fsspec URL names, in sorted order."""

import os
from pathlib import PurePosixPath
from typing import Any

from conceptlab.data.corpora.files_corpus import KINDS
from conceptlab.data.corpora.source_file import SourceFile, reason
from conceptlab.data.table import shown
from conceptlab.errors import DataError

ALLOWED = ", ".join(KINDS)
_MAGIC = frozenset("*?[")


def find_sources(source: str) -> tuple[str, list[SourceFile], bool]:
    """The corpus' name, its files, and whether they are those of a folder.

    Raises DataError where there is nothing to read, the file system is not known, or files of two kinds are mixed.
    """
    fs, path = _file_system(source)
    try:
        fs.invalidate_cache()  # what it listed earlier in this process may have changed
        found, folder = _listed(fs, path, source)
        files = [_file(fs, info, path if folder else os.path.dirname(path)) for info in found]
    except DataError:
        raise
    except Exception as error:  # each file system raises its own kinds
        raise DataError(
            f"{shown(source, 100)}: cannot be looked up ({reason(error)}); check the path and your rights"
        ) from error
    if folder:
        files = [file for file in files if _known(file) and not _hidden(file.name)]
    files.sort(key=lambda file: file.name)
    _check(source, files, folder)
    return os.path.basename(path.rstrip("/")) or source, files, folder


def _file_system(source: str) -> tuple[Any, str]:
    import fsspec

    if "://" not in source:
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(source))
    try:
        return fsspec.core.url_to_fs(source)
    except ImportError as error:
        raise DataError(f"{shown(source, 100)}: {reason(error)}") from error
    except ValueError as error:
        raise DataError(
            f"{shown(source, 100)}: {reason(error)}; give a path, or a URL such as s3://bucket/corpus.jsonl"
        ) from error


def _listed(fs: Any, path: str, source: str) -> tuple[list[dict[str, Any]], bool]:
    if "\0" in path:
        raise DataError(f"{shown(source, 100)}: holds NUL; check the path")
    if fs.isfile(path):
        return [fs.info(path)], False
    if fs.isdir(path):
        return [info for info in fs.find(path, detail=True).values() if info["type"] == "file"], True
    if _MAGIC & set(path):
        return [info for info in fs.glob(path, detail=True).values() if info["type"] == "file"], False
    if fs.exists(path):
        raise DataError(
            f"{shown(source, 100)}: is not an ordinary file; give a {ALLOWED} file, or a folder or glob of them"
        )
    raise DataError(f"{shown(source, 100)}: no such file; check the path")


def _file(fs: Any, info: dict[str, Any], root: str) -> SourceFile:
    path = str(info["name"])
    inside = path.startswith(root.rstrip("/") + "/")
    name = path[len(root.rstrip("/")) + 1 :] if inside else os.path.basename(path)
    return SourceFile(fs, path, name, int(info.get("size") or 0))


def _known(file: SourceFile) -> bool:
    kind = KINDS.get(file.kind)
    return kind is not None and (kind.zipped or not file.zipped)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def _check(source: str, files: list[SourceFile], folder: bool) -> None:
    where = shown(source, 100)
    if not files:
        what = f"the folder holds no {ALLOWED} file" if folder else "no file matches"
        raise DataError(f"{where}: {what}; check the path")
    for file in files:
        if not _known(file):
            raise DataError(
                f"{shown(file.name, 100)}: unknown kind of file {shown(file.kind)}; use one of {ALLOWED} "
                "(.gz too, but for .parquet)"
            )
    kinds = sorted({file.kind for file in files})
    if len(kinds) > 1:
        raise DataError(
            f"{where}: holds {' and '.join(kinds)} files; name those of one kind, for example '*{kinds[0]}'"
        )
