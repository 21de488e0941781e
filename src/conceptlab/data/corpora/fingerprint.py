"""What tells one set of files from another, at a cost that stays small for terabytes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from conceptlab.data.corpora.source_file import CHUNK, SourceFile, readable
from conceptlab.runs.sealed import record_id

WHOLE = 1 << 30  # bytes of all files together that are read whole
END = 1 << 20  # bytes read at the beginning and at the end of each file of a larger corpus
SUMS = ("ETag", "etag", "md5Hash", "md5", "crc32c", "content_md5", "checksum", "sha256")


def fingerprint_of(files: Sequence[SourceFile], reading: Mapping[str, Any]) -> str:
    """The sha256 of how the files are read (`reading`), and of each file's name, size and content.

    The content counts by the checksum that the file system keeps (an object store's ETag); without one, by its sha256 where all
    files together have at most 1 GiB, and else by that of its first and last MiB: a change of the same length in the middle of a
    larger corpus goes unseen.
    """
    whole = sum(file.size for file in files) <= WHOLE
    return record_id({**reading, "files": [[file.name, file.size, _content(file, whole)] for file in files]})


def _content(file: SourceFile, whole: bool) -> str:
    with readable(file.name):
        info = file.fs.info(file.path)
        for name in SUMS:
            if info.get(name):
                return f"{name}:{info[name]}"
        return _sha256(file, whole)


def _sha256(file: SourceFile, whole: bool) -> str:
    digest = hashlib.sha256()
    with file.fs.open(file.path, "rb") as content:
        if whole or file.size <= 2 * END:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
        else:
            digest.update(content.read(END))
            content.seek(file.size - END)
            digest.update(content.read(END))
    return digest.hexdigest()
