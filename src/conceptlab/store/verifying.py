"""Verify a store, byte for byte."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from conceptlab.errors import ConceptlabError, InputError, ResultError
from conceptlab.runs import SILENT, Progress
from conceptlab.runs.blocks import check_file
from conceptlab.runs.ledger import Commit, commit_name
from conceptlab.runs.place import Place, place_of
from conceptlab.runs.sealed import Damaged
from conceptlab.store.manifest import MANIFEST, read_manifest
from conceptlab.store.plan import OWN, PLAN, entry_of, read_plan, read_table
from conceptlab.store.store import Store

Kind = Literal["manifest", "plan", "tokens", "text", "commit", "data", "stray"]


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was written: what `kind` of file, of which shard (None: the store's own), and how."""

    kind: Kind
    shard: int | None
    name: str
    what: str

    def __str__(self) -> str:
        return self.what if self.name in self.what else f"{self.name} {self.what}"


@dataclass(frozen=True)
class Verdict:
    """Everything that `verify` found; `n_files` and `n_bytes` were read, `unfinished` shards have no commit yet."""

    faults: tuple[Fault, ...]
    n_files: int
    n_bytes: int
    unfinished: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged (unfinished shards are not damage)."""
        return not self.faults


def verify(url: str | Path, *, progress: Progress = SILENT) -> Verdict:
    """Read every byte of a store and compare. Raises ResultError where there is no store at all."""
    faults = _records(place_of(url))
    if faults:
        return Verdict(tuple(faults), 0, 0, ())
    return _Verifier(Store.open(url)).run(progress)


def _records(place: Place) -> list[Fault]:
    """Manifest and plan; without both nothing else can be judged."""
    if place.read(MANIFEST) is None and place.read(PLAN) is None:
        raise ResultError(f"{place.url} holds no store (no {MANIFEST}); make one with `conceptlab harvest`")
    faults: list[Fault] = []
    readers = {"manifest": (read_manifest, MANIFEST), "plan": (read_plan, PLAN)}
    for kind, (read, name) in readers.items():
        try:
            if read(place) is None:
                faults.append(Fault(kind, None, name, "is missing"))  # type: ignore[arg-type]
        except ResultError as error:
            if "newer conceptlab" in str(error):
                raise
            faults.append(Fault(kind, None, name, str(error)))  # type: ignore[arg-type]
    return faults


class _Verifier:
    def __init__(self, store: Store) -> None:
        self.store, self.place = store, store.place
        self.n_files = self.n_bytes = 0
        self.known: set[str] = {MANIFEST, PLAN}
        self.read: set[int] = set()  # shards whose commit could be read

    def run(self, progress: Progress) -> Verdict:
        plan, faults = self.store.plan, []
        finished = set(self.store.shards)
        self.known |= _index_names(self.place)
        with progress.task("verify", plan.n_shards) as task:
            for shard in range(plan.n_shards):
                faults += self._planned(shard)
                if shard in finished:
                    faults += self._committed(shard)
                task.advance()
        faults += [Fault("stray", None, name, "belongs to no finished shard") for name in self._strays()]
        unfinished = tuple(shard for shard in range(plan.n_shards) if shard not in finished)
        return Verdict(tuple(faults), self.n_files, self.n_bytes, unfinished)

    def _planned(self, shard: int) -> Iterator[Fault]:
        for kind in ("tokens", "text"):
            entry = entry_of(self.store.plan, shard, kind)
            if entry["name"] is None:
                continue
            self._count(entry["name"], entry["size"])
            try:
                read_table(self.place, entry)
            except ConceptlabError as error:
                yield Fault(kind, shard, entry["name"], str(error))  # type: ignore[arg-type]

    def _committed(self, shard: int) -> Iterator[Fault]:
        name = commit_name(shard)
        self.known.add(name)
        try:
            commit = self.store.ledger.commit_of(shard)
        except (Damaged, ConceptlabError, KeyError, TypeError, ValueError) as error:
            yield Fault("commit", shard, name, str(error))
            return
        if commit is None:
            yield Fault("commit", shard, name, "is missing")
            return
        self.read.add(shard)
        yield from self._files(commit)

    def _files(self, commit: Commit) -> Iterator[Fault]:
        for name, record in commit.files.items():
            self._count(name, record.size)
            try:
                check_file(self.place, name, record)
            except (Damaged, InputError) as error:
                yield Fault("data", commit.shard, name, str(error))

    def _count(self, name: str, size: int) -> None:
        self.known.add(name)
        self.n_files += 1
        self.n_bytes += size

    def _strays(self) -> list[str]:
        """Files that no record names, of shards whose commit was read: others may be under way, or their commit is damaged."""
        ours = (name for name in self.place.names() if OWN.fullmatch(name) and name not in self.known)
        return [name for name in ours if _shard_of(name) in self.read | {None}]


def _index_names(place: Place) -> set[str]:
    from conceptlab.runs.sealed import unseal

    return {unseal(place.read(PLAN) or b"")["index"]["name"]}


def _shard_of(name: str) -> int | None:
    """The shard in a file's name, None where it names none."""
    number = name.rpartition("/")[2].partition("-")[0].partition(".")[0]
    return int(number) if len(number) >= 6 and number.isdecimal() else None


def summary(verdict: Verdict) -> Mapping[str, Any]:
    """As plain JSON values."""
    faults = [{"kind": f.kind, "shard": f.shard, "name": f.name, "what": str(f)} for f in verdict.faults]
    return {
        "whole": verdict.whole,
        "files": verdict.n_files,
        "bytes": verdict.n_bytes,
        "unfinished": list(verdict.unfinished),
        "faults": faults,
    }
