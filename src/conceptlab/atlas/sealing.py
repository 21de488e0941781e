"""A sealed record: one JSON file, written last, that holds the sha256 of every file beside it and of itself.

A byte that changes in any of them, a file that goes missing or one too many is noticed on reading; `zarr` alone would
fill a missing chunk with zeros in silence.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conceptlab.errors import ResultError
from conceptlab.results.saving import SCHEMA, write_bytes


def file_hashes(folder: Path, *, without: str = "") -> dict[str, str]:
    """Path (relative, with slashes) -> sha256 of every file under `folder` except the one named `without`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ResultError(
                f"{path} is a link; a saved result holds files only, so it was changed after it was written"
            )
        if path.is_file() and name != without:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def seal(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record (plain JSON values, no NaN) with its schema and its own sha256."""
    body = {"schema": SCHEMA, **record}
    return _dump({**body, "sha256": hashlib.sha256(_dump(body)).hexdigest()})


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write `record` to `path`, whole or not at all. Raises RunError when the disk refuses."""
    write_bytes(path, seal(record))


def read_sealed(path: Path, kind: str) -> dict[str, Any]:
    """The record of the given kind at `path`. Raises ResultError: missing, damaged, newer or of another kind."""
    try:
        data = path.read_bytes()
        record = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise ResultError(
            f"{path} cannot be read as a saved {kind}: {reason}; save it again or give another folder"
        ) from error
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise ResultError(f"{path} is no saved {kind}; give the folder that a run wrote")
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ResultError(
            f"{path} was written by a newer conceptlab (schema {schema}, this one reads {SCHEMA}); update it"
        )
    body = {k: v for k, v in record.items() if k not in ("schema", "sha256")}
    if schema != SCHEMA or data != seal(body):
        raise ResultError(f"{path} is damaged: it is not what was written; run it again or restore a copy")
    return body


def check_files(folder: Path, expected: Mapping[str, str], *, without: str = "") -> None:
    """Compare every file under `folder` with its recorded sha256. Raises ResultError naming the first that differs."""
    found = file_hashes(folder, without=without)
    for name in sorted({*expected, *found}):
        if name not in found:
            raise ResultError(f"{folder / name} is missing; run it again or restore a copy")
        if name not in expected:
            raise ResultError(f"{folder / name} was not written with this result; remove it or restore a copy")
        if found[name] != expected[name]:
            raise ResultError(f"{folder / name} is damaged: its sha256 differs; run it again or restore a copy")


def _dump(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, indent=1, ensure_ascii=True, allow_nan=False).encode()
