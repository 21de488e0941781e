"""Bar 4: a disk that refuses. Every call to the file system below the store fails in turn, with each of four errors; and the
process is killed before every such call. A disk that is full or read-only stays so, the other errors strike once."""

import builtins
import errno
import io
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability import small
from tests.reliability.kills import Kills, Trials

ERRORS = ("ENOSPC", "EIO", "EROFS", "EACCES")
STAYING = ("ENOSPC", "EROFS")
CALLS = ("open", "mkdir", "link", "unlink", "rename", "replace", "rmdir", "fsync", "stat", "scandir")
REAL = {name: getattr(os, name) for name in CALLS}
REAL_OPEN = io.open


class Shim:
    """Counts the calls below `folder` and does `strike(call)` before number `at` of them (and, `stays`, before all later ones)."""

    def __init__(self, folder: str, at: int | None, strike: Callable[[str], None], *, stays: bool = False) -> None:
        self.folder, self.at, self.strike, self.stays = os.path.realpath(folder), at, strike, stays
        self.calls: list[str] = []
        self._lock = threading.Lock()
        self.ours: set[int] = set()  # file descriptors of files below the folder

    def __enter__(self) -> "Shim":
        for name in CALLS:
            setattr(os, name, self._counted(name))
        io.open = builtins.open = self._open  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for name in CALLS:
            setattr(os, name, REAL[name])
        io.open = builtins.open = REAL_OPEN  # type: ignore[assignment]

    def passed(self, call: str) -> None:
        """A call is about to be made."""
        with self._lock:
            number = len(self.calls)
            self.calls.append(call)
        if number == self.at or (self.stays and self.at is not None and number > self.at):
            self.strike(call)

    def _below(self, path: Any) -> bool:
        if isinstance(path, int):
            return path in self.ours
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        found = os.path.abspath(os.fsdecode(path))
        return found == self.folder or found.startswith(self.folder + "/")

    def _counted(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
            ours = self._below(path) or any(k in self.ours for k in (keywords.get("dir_fd"),))
            if ours:
                self.passed(name)
            found = REAL[name](path, *arguments, **keywords)
            if name == "open" and ours:
                self.ours.add(found)
            return found

        return call

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **keywords: Any) -> Any:
        if not self._below(file) or "b" not in mode:
            return REAL_OPEN(file, mode, buffering, *arguments, **keywords)
        self.passed("open for reading" if mode == "rb" else "open for writing")
        raw = _CountedFile(file, mode, self)
        self.ours.add(raw.fileno())
        if buffering == 0:
            return raw
        return io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw)


class _CountedFile(io.FileIO):
    """A file whose reads, writes and end are counted."""

    def __init__(self, file: Any, mode: str, shim: Shim) -> None:
        super().__init__(file, mode)
        self._shim, self._mode = shim, mode

    def write(self, content: Any) -> int | None:
        self._shim.passed("write")
        return super().write(content)

    def readinto(self, buffer: Any) -> int | None:
        self._shim.passed("read")
        return super().readinto(buffer)

    def readall(self) -> bytes | None:
        self._shim.passed("read")
        return super().readall()

    def close(self) -> None:
        if not self.closed:
            self._shim.ours.discard(self.fileno())
            super().close()
            if self._mode != "rb":
                self._shim.passed("close")


def calls_of(url: str) -> list[str]:
    """The calls that a harvest makes, in order."""
    with Shim(url, None, lambda call: None) as shim:
        small.harvest(url)
    return shim.calls


def harvest_with(url: str, at: int, error: str) -> bool:
    """Harvest with one call failing; whether there was such a call (threads may make some more or fewer)."""

    def fail(call: str) -> None:
        number = getattr(errno, error)
        raise OSError(number, os.strerror(number))

    with Shim(url, at, fail, stays=error in STAYING) as shim:
        small.harvest(url)
    return len(shim.calls) > at


def harvest_killed(url: str, at: int) -> None:
    """Harvest, and die before one call."""

    def die(call: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with Shim(url, at, die):
        small.harvest(url)


@dataclass
class Failures:
    """Calls that were made to fail, and what came of it."""

    failures: int = 0
    one_line: int = 0
    harmless: int = 0
    calls: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {call}" for call, count in sorted(self.calls.items()))
        return (
            f"{self.failures:,} failed calls ({kinds}; {', '.join(ERRORS)}): {self.one_line:,} ended in one line and exit code 1, "
            f"{self.harmless:,} did no harm; every store went on to the same bytes"
        )


def at_every_call(trials: Trials, count: int | None = None, seed: int = 0) -> Failures:
    """Let each call fail with each error (`count` None), or `count` of them drawn at random, every kind of call among them."""
    calls = trials.server.run("tests.reliability.faults:calls_of", trials.place("calls")).checked()
    cases = [(at, error) for at in range(len(calls)) for error in ERRORS]
    tally = Failures()
    for at, error in drawn(cases, [calls[at] for at, _ in cases], count, seed):
        url = trials.place(f"failing-{at}-{error}")
        outcome = trials.server.run("tests.reliability.faults:harvest_with", url, at, error)
        tally.failures += 1
        tally.calls[calls[at]] += 1
        if outcome.code == 0:
            tally.harmless += outcome.value
            tally.failures -= not outcome.value
        else:
            told = f"{calls[at]} number {at} with {error}: {outcome.error} {outcome.message}\n{outcome.trace}"
            assert outcome.error == "RunError" and outcome.code == 1, told
            assert "\n" not in outcome.message and outcome.message, told
            assert not outcome.printed, outcome.printed
            tally.one_line += 1
        trials.server.run("tests.reliability.whole:check_and_resume", url, trials.expected).checked()
    return tally


def killed_at_every_call(trials: Trials, count: int | None = None, seed: int = 0) -> Kills:
    """Kill before each call (`count` None), or before `count` of them drawn at random."""
    calls = trials.server.run("tests.reliability.faults:calls_of", trials.place("calls-killed")).checked()
    tally = Kills()
    for at in drawn(list(range(len(calls))), calls, count, seed):
        url = trials.place(f"killed-{at}")
        outcome = trials.server.run("tests.reliability.faults:harvest_killed", url, at)
        if not outcome.killed:  # fewer calls this time: threads may find a folder that another has made
            outcome.checked()
            continue
        tally.kills += 1
        trials.after(url, tally)
    return tally


def drawn(cases: list[Any], kinds: list[str], count: int | None, seed: int) -> list[Any]:
    """All cases, or `count` drawn at random with one of every kind at least."""
    if count is None:
        return cases
    rng = random.Random(seed)
    order = rng.sample(range(len(cases)), len(cases))
    first = {kinds[index]: index for index in reversed(order)}
    rest = [index for index in order if index not in first.values()]
    return [cases[index] for index in [*first.values(), *rest][:count]]


def folder(base: Path) -> Callable[[object], str]:
    """Where the stores of trials are made, each in a folder of its own."""
    return lambda name: str(base / str(name))
