"""Finished parts of a run: each is committed whole, by a record written last, and found again by the same command.

run.json            the run's key (model revision, data hash, seed, settings): another key refuses the folder
parts/<name>/       the files of a part
parts/<name>.json   its commit record: sizes and sha256; without it, or when it does not match, the part is redone
"""

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from conceptlab.errors import InputError, RunError
from conceptlab.runs.durable import listing, read_record, sync, sync_all, write_record
from conceptlab.runs.failures import as_run_error
from conceptlab.runs.sealed import difference

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,150}")


class Checkpoint:
    """The finished parts of one run in `folder`, held by one process at a time; use it as a context manager.

    `key` holds plain JSON values that determine the results. Opening raises InputError when `folder` belongs to a run
    with another key or is in use, and RunError when the disk refuses.
    """

    def __init__(self, folder: Path | str, key: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.key = json.loads(json.dumps({"schema": SCHEMA, **key}, sort_keys=True))
        self._lock: TextIO | None = None

    @property
    def run_id(self) -> str:
        """The sha256 of the key."""
        return hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()

    def __enter__(self) -> "Checkpoint":
        with _disk(self.folder):
            (self.folder / "parts").mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder)
            try:
                self._adopt()
            except BaseException:
                self.close()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another process use the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _adopt(self) -> None:
        record = read_record(self.folder / "run.json")
        if record is None:
            write_record(self.folder / "run.json", self.key)
        elif record != self.key:
            raise InputError(f"{self.folder} holds another run ({difference(record, self.key)}); choose another --out")
        for partial in (self.folder / "parts").glob(".*.partial"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()

    def finished(self, name: str) -> Path | None:
        """The folder of a part that is whole, else None; what does not match its record counts as not done."""
        folder = self._place(name)
        with _disk(folder):
            record = read_record(self._record(name))
            if record is None or record.get("run") != self.run_id or not folder.is_dir():
                return None
            return folder if listing(folder) == record.get("files") else None

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """Give an empty folder to fill; when the body ends well its files are committed as part `name`.

        When the body raises, nothing of the part stays, and an earlier commit of it is gone too.
        """
        final = self._place(name)
        partial = final.with_name(f".{name}.partial")
        with _disk(final):
            self._record(name).unlink(missing_ok=True)
            shutil.rmtree(final, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
        try:
            yield partial
            with _disk(final):
                self._commit(name, partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _commit(self, name: str, partial: Path, final: Path) -> None:
        sync_all(partial)
        record = {"run": self.run_id, "files": listing(partial)}
        partial.rename(final)
        sync(final.parent)
        write_record(self._record(name), record)

    def clear(self) -> None:
        """Forget every part, once the run has written its result."""
        with _disk(self.folder):
            for record in (self.folder / "parts").glob("*.json"):
                record.unlink()
            shutil.rmtree(self.folder / "parts")
            (self.folder / "parts").mkdir()

    def _place(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no name for a part; use letters, digits, '.', '-' and '_'")
        return self.folder / "parts" / name

    def _record(self, name: str) -> Path:
        return self._place(name).with_name(f"{name}.json")


def _locked(folder: Path) -> TextIO:
    lock = (folder / ".lock").open("a", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InputError(f"{folder} is in use by another run; wait for it or choose another --out") from error
    return lock


@contextmanager
def _disk(where: Path) -> Iterator[None]:
    """Errors of the disk in the body become a RunError that names the place."""
    try:
        yield
    except OSError as error:
        raise as_run_error(error) or RunError(f"{where}: {error.strerror or error}; choose another folder") from error
