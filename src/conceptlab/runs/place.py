"""Where the files of long work lie: a local folder here, an object store in `object_place.py`.

A file appears whole under its name or not at all. `publish` is for data whose name holds its hash (writing it twice changes
nothing); `create` is for records that must exist once: the second writer is told that it lost.
"""

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from conceptlab.errors import InputError, RunError
from conceptlab.runs.durable import sync
from conceptlab.runs.failures import as_run_error
from conceptlab.runs.moments import moment

STALE = 3600  # seconds after which a record that was drafted and never written is nobody's


class Place(Protocol):
    """A folder of files by relative name (`acts/resid_post/3/…`). Every method raises RunError when the disk or store refuses."""

    url: str

    def drafts(self, name: str) -> AbstractContextManager[Path]:
        """An empty local folder for the unfinished files of the work called `name`: what an earlier one left there is gone, and so
        is the folder afterwards."""
        ...

    def publish(self, draft: Path, name: str) -> None:
        """Move a finished draft to `name`, on the disk before it is visible; `name` holds the hash of the content."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Write `content` as `name` unless it exists: False where it does, and then nothing is written."""
        ...

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None where there is none."""
        ...

    def span(self, name: str, start: int, end: int) -> bytes:
        """Bytes start to end of a file. Raises FileNotFoundError where there is none; fewer bytes where it ends earlier."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """Names of all files below `folder`, sorted; drafts and locks are left out."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def lock_file(self) -> Path | None:
        """The file whose bytes are locked by `claims.py`; None where the place has no locks."""
        ...

    def free(self) -> int | None:
        """Bytes that may still be written; None where nobody knows."""
        ...

    def local(self, name: str) -> Path | None:
        """The path of a file on this machine's disk, None where it is elsewhere."""
        ...


def place_of(url: str | Path) -> Place:
    """The place that `url` names: a path, `file://…`, or any fsspec URL. Raises InputError for an unknown kind of URL."""
    parts = urlsplit(str(url))
    if "://" not in str(url) or parts.scheme == "file":
        return LocalPlace(Path(parts.path if parts.scheme == "file" else str(url)).expanduser())
    from conceptlab.runs.object_place import ObjectPlace

    return ObjectPlace(str(url).rstrip("/"))


def put(place: Place, name: str, content: bytes) -> None:
    """Publish bytes under a name that holds their hash."""
    with place.drafts(name.replace("/", "-")) as folder:
        draft = folder / "content"
        with disk(draft):
            draft.write_bytes(content)
        place.publish(draft, name)


def inside(name: object) -> str:
    """`name` itself, when it is a plain relative path that stays inside. Raises InputError otherwise."""
    plain = isinstance(name, str) and name.isprintable() and "\\" not in name
    if not plain or any(part in ("", ".", "..") for part in str(name).split("/")):
        raise InputError(
            f"{name!r} would leave the store; the record that names it is damaged, run `conceptlab store verify`"
        )
    return str(name)


class LocalPlace:
    """A folder on a file system with rename and locks. Drafts lie in `.drafts/` of the same folder, so that rename is atomic."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    @contextmanager
    def drafts(self, name: str) -> Iterator[Path]:
        folder = self._path(f".drafts/{inside(name)}")
        with disk(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, draft: Path, name: str) -> None:
        final = self._path(name)
        with disk(final):
            sync(draft)
            moment("draft on disk")
            _make(final.parent)
            draft.replace(final)
            moment("file renamed")
            sync(final.parent)
        moment("file published")

    def create(self, name: str, content: bytes) -> bool:
        final, drafts = self._path(name), self._path(".drafts")
        with disk(final):
            _make(final.parent)
            _make(drafts)
            draft = drafts / f"record-{secrets.token_hex(16)}"
            try:
                with draft.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                moment("commit drafted")
                os.link(draft, final)  # fails where the name exists, unlike rename
                moment("commit linked")
            except FileExistsError:
                return False
            finally:
                with suppress(OSError):
                    draft.unlink()
            sync(final.parent)
        moment("commit written")
        return True

    def read(self, name: str) -> bytes | None:
        path = self._path(name)
        with disk(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def span(self, name: str, start: int, end: int) -> bytes:
        path = self._path(name)
        with disk(path, missing=True), path.open("rb") as file:
            file.seek(start)
            return file.read(max(0, end - start))

    def size(self, name: str) -> int | None:
        path = self._path(name)
        with disk(path):
            try:
                return path.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, folder: str = "") -> list[str]:
        root = self._path(folder) if folder else self.folder
        with disk(root):
            found = (Path(path).relative_to(self.folder).as_posix() for path in _files(root))
            return sorted(name for name in found if not name.startswith("."))

    def delete(self, name: str) -> None:
        path = self._path(name)
        with disk(path):
            path.unlink(missing_ok=True)

    def lock_file(self) -> Path | None:
        with disk(self.folder):
            _make(self.folder)
        with suppress(OSError):
            for draft in self._path(".drafts").glob("record-*"):  # of processes that were killed
                if time.time() - draft.lstat().st_mtime > STALE:
                    draft.unlink()
        return self._path(".lock")

    def free(self) -> int | None:
        place = self.folder.absolute()
        while not place.exists() and place != place.parent:
            place = place.parent
        with disk(place):
            return shutil.disk_usage(place).free

    def local(self, name: str) -> Path | None:
        return self._path(name)

    def _path(self, name: str) -> Path:
        """Where a name lies. Raises InputError where a link on the way leads out of the folder."""
        path = self.folder / inside(name)
        with disk(path):
            root, real = os.path.realpath(self.folder), os.path.realpath(path)
        if not real.startswith(os.path.join(root, "")):
            raise InputError(
                f"{path} is a link that leads out of the store; replace it by what it links to (cp -rL copies a store so)"
            )
        return path


def _files(root: Path) -> Iterator[str]:
    """Every file below a folder but not below hidden ones; a folder that vanishes meanwhile holds none."""

    def gone(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for folder, inner, files in os.walk(root, onerror=gone):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in files)


def _make(folder: Path) -> None:
    """Make a folder and its parents, each entry on the disk."""
    if folder.is_dir():
        return
    _make(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        sync(folder.parent)


@contextmanager
def disk(where: Path | str, *, missing: bool = False) -> Iterator[None]:
    """Errors of the disk in the body become a RunError that names the place. `missing`: FileNotFoundError is left as it is."""
    try:
        yield
    except FileNotFoundError as error:
        if missing:
            raise
        raise RunError(f"{where}: the folder vanished or cannot be made; the same command begins anew there") from error
    except OSError as error:
        raise as_run_error(error) or RunError(f"{where}: {error.strerror or error}; choose another folder") from error
