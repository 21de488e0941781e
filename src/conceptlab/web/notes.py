"""What people write down in the viewer (pinned nodes, groups, remarks): small JSON documents, each saved whole or not at all.

A document is found by its kind and id. Neither becomes part of a path: the file is named by their hash and holds them inside.
"""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from conceptlab.errors import InputError, ResultError
from conceptlab.results.saving import write_bytes

SCHEMA = 1
DOCUMENT = 256 * 2**10
MOST = 10_000
STALE = 3600.0  # seconds after which a file that a killed process left half written is swept away
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")


class Notes:
    """The notes in one folder, which is made when the first is saved. Methods may be called from any thread."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._sweep()

    def get(self, kind: str, id: str) -> Any:
        """The document, or None where there is none. Raises ResultError where its file is damaged or newer."""
        path = self._path(kind, id)
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise ResultError(f"the note {path} cannot be read ({error}); save it again or delete it") from error
        if not isinstance(record, dict) or (record.get("kind"), record.get("id")) != (kind, id):
            raise ResultError(f"the note {path} is damaged; save it again or delete it")
        if record.get("schema", 0) > SCHEMA:
            raise ResultError(f"the note {path} was written by a newer conceptlab; update to read it")
        return record.get("document")

    def put(self, kind: str, id: str, document: Any) -> None:
        """Save a document of plain JSON values in place of the old one, wholly or not at all.

        Raises InputError where it is no JSON, too large, or one too many; RunError when the disk refuses.
        """
        path = self._path(kind, id)
        data = encoded(kind, id, document)
        with self._lock:
            if not path.exists() and len(self._files()) >= MOST:
                raise InputError(f"{self.folder} holds {MOST} notes already; delete some")
            write_bytes(path, data)

    def listed(self, kind: str) -> list[str]:
        """The ids of all readable notes of a kind, in alphabetical order."""
        found = []
        for path in self._files():
            with suppress(OSError, ValueError, RecursionError):
                record = json.loads(path.read_bytes())
                if isinstance(record, dict) and record.get("kind") == kind:
                    found.append(str(record.get("id")))
        return sorted(found)

    def _path(self, kind: str, id: str) -> Path:
        if not _KIND.fullmatch(kind) or not 0 < len(id) <= 1000:
            raise InputError(
                f"a note needs a kind of small letters and an id of 1 to 1000 characters, not {kind[:40]!r}"
            )
        named = hashlib.sha256(f"{kind}\0{id}".encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{named[:40]}.json"

    def _files(self) -> list[Path]:
        return list(self.folder.glob("*.json")) if self.folder.is_dir() else []

    def _sweep(self) -> None:
        """Remove what a killed process left half written."""
        with suppress(OSError):
            for path in self.folder.glob(".*.partial"):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()


def encoded(kind: str, id: str, document: Any) -> bytes:
    """A note as the bytes of its file. Raises InputError where it is no JSON or too large."""
    try:
        text = json.dumps({"schema": SCHEMA, "kind": kind, "id": id, "document": document}, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"a note holds plain JSON values only ({error}); send text, finite numbers, lists and objects"
        ) from error
    if len(text) > DOCUMENT:
        raise InputError(f"the note has {len(text)} bytes; at most {DOCUMENT} are kept")
    return text.encode("ascii")


def notes_beside(atlases: Sequence[Path], state: Path) -> Notes:
    """The notes of the first atlas, in its folder; where that cannot be written, or there is none, in the user's state folder."""
    if atlases:
        folder = Path(atlases[0]) / "notes"
        if os.access(folder if folder.is_dir() else folder.parent, os.W_OK):
            return Notes(folder)
        own = hashlib.sha256(str(Path(atlases[0]).resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return Notes(state / "notes" / own)
    return Notes(state / "notes" / "viewer")
