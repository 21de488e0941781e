"""`python -m tests.reliability [--only NAME,…] [--scale 0.1] [--out docs/reliability.md]`: the long forms, a line for each bar.

`--scale` takes a part of every count. Each bar that held is written into the page at once; one that fails stops the run.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.reliability import commands, faults, flips, hostile, kills, objects, page, repairs, texts, writers
from tests.reliability.fork_server import ForkServer

Bar = Callable[[Path, float], object]


@contextmanager
def trials(base: Path) -> Iterator[kills.Trials]:
    """Trials in folders below `base`, on a fork server of their own."""
    with ForkServer() as server:
        yield kills.Trials(server, faults.folder(base))


def random_kills(base: Path, scale: float) -> object:
    """kill -9 at random moments"""
    with trials(base) as given:
        return kills.at_random(given, round(1000 * scale))


def named_kills(base: Path, scale: float) -> object:
    """kill -9 at every named moment of the write path"""
    with trials(base) as given:
        return kills.at_moments(given, None if scale >= 1 else round(150 * scale))


def kills_at_calls(base: Path, scale: float) -> object:
    """kill -9 before every call to the file system"""
    with trials(base) as given:
        return faults.killed_at_every_call(given, None if scale >= 1 else round(500 * scale))


def failing_calls(base: Path, scale: float) -> object:
    """no space, I/O error, read-only, permission denied at every call"""
    with trials(base) as given:
        return faults.at_every_call(given, None if scale >= 1 else round(2000 * scale))


def failing_commands(base: Path, scale: float) -> object:
    """the same through the command line"""
    with trials(base) as given:
        return commands.at_every_call(given, base, round(200 * scale))


def flipped_bytes(base: Path, scale: float) -> object:
    """every single byte flipped"""
    return flips.flip(flips.make(base / "store"), max(1, round(1 / scale)))


def cut_files(base: Path, scale: float) -> object:
    """files cut to every length"""
    return flips.cut(flips.make(base / "store"), max(1, round(1 / scale)))


def long_files(base: Path, scale: float) -> object:
    """a file of three blocks cut and flipped at block borders and at random"""
    return flips.long_file(base / "store", max(10, round(1000 * scale)))


def whole_repairs(base: Path, scale: float) -> object:
    """damage repaired to the same bytes"""
    return flips.repaired(flips.make(base / "store"), max(7, round(210 * scale)))


def many_starts(base: Path, scale: float) -> object:
    """writers that start at once on one store"""
    with trials(base) as given:
        return writers.starts(given, round(200 * scale))


def two_writers(base: Path, scale: float) -> object:
    """two writers on one store"""
    with trials(base) as given:
        return writers.pairs(given, round(200 * scale))


def threads(base: Path, scale: float) -> object:
    """threads of one process on one store"""
    with trials(base) as given:
        return writers.threads(given, 8)


def interrupts(base: Path, scale: float) -> object:
    """Ctrl-C at random moments"""
    with trials(base) as given:
        return repairs.interrupted(given, round(100 * scale))


def killed_repairs(base: Path, scale: float) -> object:
    """repairs of one to three damaged files killed at random moments"""
    with trials(base) as given:
        return repairs.killed_repairs(given, round(200 * scale), base)


def hostile_records(base: Path, scale: float) -> object:
    """records made on purpose, with seals that fit"""
    return hostile.attack(flips.make(base / "store"), base / "scratch", round(10_000 * scale))


def killed_uploads(base: Path, scale: float) -> object:
    """kill -9 at random moments, on an object store"""
    with ForkServer() as server, objects.trials(server) as (_, given):
        return kills.at_random(given, round(500 * scale))


def named_uploads(base: Path, scale: float) -> object:
    """kill -9 at every named moment, on an object store"""
    with ForkServer() as server, objects.trials(server) as (_, given):
        return kills.at_moments(given, None if scale >= 1 else round(120 * scale))


def two_uploaders(base: Path, scale: float) -> object:
    """two writers on one store, on an object store"""
    with ForkServer() as server, objects.trials(server) as (_, given):
        return writers.pairs(given, max(2, round(50 * scale)), once=False)


def many_uploaders(base: Path, scale: float) -> object:
    """writers that start at once on one store, on an object store"""
    with ForkServer() as server, objects.trials(server) as (_, given):
        return writers.starts(given, max(2, round(20 * scale)), once=False)


def hostile_texts(base: Path, scale: float) -> object:
    """hostile texts on every page of the viewer"""
    return texts.everywhere(base, whole=scale >= 1)


BARS: dict[str, Bar] = {
    bar.__name__: bar
    for bar in (
        random_kills, named_kills, kills_at_calls, interrupts, failing_calls, failing_commands, flipped_bytes,
        cut_files, long_files, whole_repairs, killed_repairs, many_starts, two_writers, threads, hostile_records,
        killed_uploads, named_uploads, two_uploaders, many_uploaders, hostile_texts,
    )
}  # fmt: skip


def main() -> int:
    """Run the bars that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability")
    parser.add_argument("--only", default="")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else list(BARS)
    for name in wanted:
        base, began = Path(tempfile.mkdtemp(prefix="reliability-")), time.perf_counter()
        try:
            told = str(BARS[name](base, given.scale))
        finally:
            shutil.rmtree(base, ignore_errors=True)
        seconds, date = round(time.perf_counter() - began), time.strftime("%Y-%m-%d")
        line = page.Line(BARS[name].__doc__ or "", told, seconds, date)
        print(f"{line.title}: {told} ({seconds:,} s)", flush=True)
        if given.out is not None:
            page.keep(given.out, name, line, BARS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
