"""A job without a model: shard i is a file of numbers made from i. It can die, fail, or be slow where a test asks for it."""

import hashlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conceptlab.errors import InputError
from conceptlab.runs.blocks import record_of
from conceptlab.runs.job import Job
from conceptlab.runs.ledger import Ledger
from conceptlab.runs.place import place_of, put

MAKE = "tests.runs.toy_job:make"


class Toy:
    """`deaths` tokens lie in a folder; while one is left, whoever comes to shard `die_at` takes it and is killed."""

    def __init__(self, folder: str, n_shards: int, seconds: float, die_at: int, deaths: str) -> None:
        self.place = place_of(folder)
        self.ledger = Ledger(self.place, "toy", n_shards)
        self.seconds, self.die_at, self.deaths = seconds, die_at, deaths

    def do(self, shard: int) -> Mapping[str, Any]:
        time.sleep(self.seconds)
        content = f"{shard * shard}\n".encode() * 1000
        record = record_of(content)
        name = f"values/{shard:06d}-{record.sha256[:12]}.txt"
        put(self.place, name, content)
        if shard == self.die_at:
            die_if_asked(Path(self.deaths))
        self.ledger.commit(shard, {name: record}, {"sum": shard})
        return {"pid": os.getpid(), "tokens": 1000}


def die_if_asked(deaths: Path) -> None:
    for token in sorted(deaths.iterdir()):
        token.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def make(
    folder: str,
    n_shards: int = 8,
    seconds: float = 0.0,
    die_at: int = -1,
    deaths: str = "",
    wrong: str = "",
    noise: str = "",
) -> Toy:
    if wrong:
        raise InputError(wrong)
    if noise:
        print(noise)
    return Toy(folder, n_shards, seconds, die_at, deaths)


def toy(folder: Path, **arguments: Any) -> Job:
    return Job(MAKE, {"folder": str(folder), **arguments}, threads=None)


def deaths(folder: Path, count: int) -> str:
    """A folder of `count` tokens."""
    folder.mkdir()
    for number in range(count):
        (folder / str(number)).touch()
    return str(folder)


def bytes_of(folder: Path) -> dict[str, str]:
    """Name -> sha256 of every file but locks and drafts."""
    place = place_of(folder)
    return {name: hashlib.sha256(place.read(name) or b"").hexdigest() for name in place.names()}
