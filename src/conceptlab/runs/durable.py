"""Files that survive a crash: written whole or not at all, on the disk before anything says so, and checked by hash."""

import ctypes
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON through a sibling, fsync and rename, so that a reader sees the old record or the new one."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(json.dumps(record, indent=1, sort_keys=True).encode())
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def read_record(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None where there is none or it is damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def listing(folder: Path) -> dict[str, list[Any]]:
    """Path -> [size in bytes, sha256] of every file below `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): [path.stat().st_size, _digest(path)] for path in files}


def sync_all(folder: Path) -> None:
    """Fsync every file and folder below and including `folder`."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Fsync one file or folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def begin_writing(handle: int) -> None:
    """Ask the disk to begin with the pages of an open file, where the system can be asked; nothing is on the disk before `sync`."""
    ask = getattr(ctypes.CDLL(None), "sync_file_range", None) if os.name == "posix" else None
    if ask is not None:
        to_the_end, start_alone = 0, 2  # Linux: SYNC_FILE_RANGE_WRITE
        ask(ctypes.c_int(handle), ctypes.c_int64(0), ctypes.c_int64(to_the_end), ctypes.c_uint(start_alone))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
