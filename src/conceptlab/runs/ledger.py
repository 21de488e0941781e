"""The shards of a plan and which of them are finished: a shard is complete when its commit record exists.

commit/<shard>.json   the plan it belongs to, its files (bytes, sha256, a hash of every block) and what the work wants to keep

Whoever computes a shard publishes its files first (their names hold their hash) and creates the record last. Two workers that
compute the same shard do no harm: one record wins, and files that it does not name are removed.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from conceptlab.errors import InputError
from conceptlab.runs.blocks import FileRecord
from conceptlab.runs.claims import Claims
from conceptlab.runs.moments import moment
from conceptlab.runs.place import Place, inside
from conceptlab.runs.sealed import Damaged, seal, unseal

_COMMIT = re.compile(r"commit/(\d{6,})\.json")


@dataclass(frozen=True)
class Commit:
    """One finished shard: its files by name, and whatever else its work recorded."""

    shard: int
    files: Mapping[str, FileRecord]
    record: Mapping[str, Any]


class Ledger:
    """Finished and unfinished shards of the plan with the id `plan`, cut into `n_shards`; use it as a context manager to work."""

    def __init__(self, place: Place, plan: str, n_shards: int) -> None:
        self.place, self.plan, self.n_shards = place, plan, n_shards
        self._claims: Claims | None = None
        self.locks = False

    def __enter__(self) -> "Ledger":
        path = self.place.lock_file()
        self._claims, self.locks = Claims(path), path is not None
        return self

    def __exit__(self, *_: object) -> None:
        if self._claims is not None:
            self._claims.close()
            self._claims = None

    def commit_of(self, shard: int) -> Commit | None:
        """The commit of a shard, None where it is not finished.

        Raises Damaged for a record that is not as it was written, InputError for one of another plan or with a name that leaves
        the place.
        """
        content = self.place.read(commit_name(shard))
        if content is None:
            return None
        record = unseal(content)
        if record.get("plan") != self.plan or record.get("shard") != shard:
            raise InputError(f"{self.place.url}/{commit_name(shard)} belongs to another plan; choose another store")
        named = record.get("files")
        if not isinstance(named, dict):
            raise Damaged("names no files")
        return Commit(shard, {inside(name): FileRecord.of(entry) for name, entry in named.items()}, record)

    def finished(self) -> list[int]:
        """The shards that have a commit record, read or not."""
        found = (_COMMIT.fullmatch(name) for name in self.place.names("commit"))
        numbers = {int(match[1]) for match in found if match and match[0] == commit_name(int(match[1]))}
        return sorted(number for number in numbers if number < self.n_shards)

    @contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        """Hold an unfinished shard in the body; gives False where it is finished, or somebody else holds it.

        A commit that is damaged counts as finished here: `verify` finds it and `repair` removes it.
        """
        if self._claims is None:
            raise RuntimeError("use the ledger as a context manager to claim shards")
        with self._claims.claim(shard) as taken:
            yield taken and self.place.size(commit_name(shard)) is None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run itself in the body, waiting for whoever holds it."""
        if self._claims is None:
            raise RuntimeError("use the ledger as a context manager to hold it")
        with self._claims.alone():
            yield

    def commit(self, shard: int, files: Mapping[str, FileRecord], record: Mapping[str, Any]) -> bool:
        """Say that a shard is finished; its files are published. False where somebody else had finished it before."""
        moment("files published")
        body = {"plan": self.plan, "shard": shard, "files": {name: f.entry() for name, f in files.items()}, **record}
        won = self.place.create(commit_name(shard), seal(body))
        named = files if won else _files_of(self.place.read(commit_name(shard)), files)
        for name in files:
            if name not in named:
                self.place.delete(name)
        return won


def commit_name(shard: int) -> str:
    """Where the commit record of a shard lies."""
    return f"commit/{shard:06d}.json"


def _files_of(content: bytes | None, otherwise: Mapping[str, FileRecord]) -> Mapping[str, Any]:
    try:
        return unseal(content or b"")["files"]
    except Damaged:
        return otherwise
