"""A place in an object store, through fsspec: an object appears whole when its upload ends, and a record is created once by a
conditional put (`If-None-Match: *`), so that neither rename nor locks are needed.

Drafts lie in a temporary folder of this machine; those of a killed worker are removed by the next. Two workers may compute the same
shard; the second to commit is told so. A large upload that was killed leaves parts that no listing shows and stores charge for: let
the bucket's rules abort unfinished uploads after a day.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conceptlab.errors import InputError, RunError
from conceptlab.runs.moments import moment
from conceptlab.runs.place import disk, inside

_PREFIX = "conceptlab-drafts-"


class ObjectPlace:
    """A prefix of a bucket (`s3://bucket/store`), or any other fsspec URL whose file system can create a file exclusively."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InputError(
                f"{url}: this kind of store cannot be opened ({error}); use a folder or s3://bucket/name"
            ) from error

    @contextmanager
    def drafts(self, name: str) -> Iterator[Path]:
        with disk(tempfile.gettempdir()):
            _sweep()
            folder, lock = _own_folder(inside(name).replace("/", "-"))
        try:
            yield folder / "drafts"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def publish(self, draft: Path, name: str) -> None:
        with self._store(name, writes=True):
            moment("draft on disk")
            self.fs.put_file(str(draft), self._key(name))
        moment("file published")

    def create(self, name: str, content: bytes) -> bool:
        with self._store(name, writes=True):
            moment("commit drafted")
            try:
                self.fs.pipe_file(self._key(name), content, mode="create")
            except FileExistsError:
                return False
        moment("commit written")
        return True

    def read(self, name: str) -> bytes | None:
        with self._store(name):
            try:
                return self.fs.cat_file(self._key(name))
            except FileNotFoundError:
                return None

    def span(self, name: str, start: int, end: int) -> bytes:
        if end <= start:
            return b""
        with self._store(name):
            return self.fs.cat_file(self._key(name), start=start, end=end)

    def size(self, name: str) -> int | None:
        with self._store(name):
            try:
                self.fs.invalidate_cache(self._key(name))
                return int(self.fs.info(self._key(name))["size"])
            except FileNotFoundError:
                return None

    def names(self, folder: str = "") -> list[str]:
        with self._store(folder):
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(self._key(folder) if folder else self.root)
            except FileNotFoundError:
                return []
        below = (path.removeprefix(self.root).lstrip("/") for path in found)
        return sorted(name for name in below if not name.startswith("."))

    def delete(self, name: str) -> None:
        with self._store(name):
            try:
                self.fs.rm_file(self._key(name))
            except FileNotFoundError:
                return

    def lock_file(self) -> Path | None:
        return None

    def free(self) -> int | None:
        return None

    def local(self, name: str) -> Path | None:  # noqa: ARG002 - the form of a Place
        return None

    def _key(self, name: str) -> str:
        return f"{self.root}/{inside(name)}"

    @contextmanager
    def _store(self, name: str, *, writes: bool = False) -> Iterator[None]:
        """Whatever the store answers becomes a RunError that names the object; where it `writes`, nothing may be missing."""
        try:
            yield
        except FileNotFoundError as error:
            if not writes:
                raise
            raise InputError(f"{self.url}: {_said(error)}; make the bucket or folder first") from error
        except (FileExistsError, InputError, RunError):
            raise
        except Exception as error:  # every library behind fsspec has errors of its own
            raise RunError(f"{self.url}/{name}: the store answers {_said(error)}; the same command goes on") from error


def _own_folder(name: str) -> tuple[Path, int]:
    """A new temporary folder with an empty folder `drafts` in it, and a lock on it that ends with this process."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{name}-"))
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "lock").exists():  # else it was swept away before it was locked
            (folder / "drafts").mkdir()
            return folder, lock
        os.close(lock)


def _sweep() -> None:
    """Remove the folders of processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/lock"):
        with suppress(OSError):
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)


def _said(error: Any) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
