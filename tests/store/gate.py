"""Workers of a harvest that wait at a gate before each shard, so that a test can kill them there."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptlab.runs.job import Job
from conceptlab.store.harvesting import make_harvester

PATIENCE = 240  # seconds: on a busy machine three workers may take a minute until each has imported torch


def gated(made: Job, gate: "Gate") -> Job:
    """The job with workers that wait at the gate before each shard."""
    return Job("tests.store.gate:make_gated", {"gate": str(gate.folder), **made.arguments}, made.threads)


def make_gated(gate: str, **arguments: Any) -> "Gated":
    return Gated(make_harvester(**arguments), Gate(Path(gate)))


class Gated:
    def __init__(self, inner: Any, gate: "Gate") -> None:
        self.inner, self.gate, self.ledger = inner, gate, inner.ledger

    def do(self, shard: int) -> Mapping[str, Any]:
        self.gate.wait(shard)
        return {**self.inner.do(shard), "node": _node()}


@dataclass(frozen=True)
class Gate:
    """A folder: who waits leaves a file there, and goes on when there is one called `open`."""

    folder: Path

    def wait(self, shard: int) -> None:
        (self.folder / f"{shard}.{os.getpid()}.{_node()}").touch()
        end = time.monotonic() + PATIENCE
        while not (self.folder / "open").exists() and time.monotonic() < end:
            time.sleep(0.02)

    def open(self) -> None:
        (self.folder / "open").touch()

    def waiting(self, at_least: int) -> list[tuple[int, int, str]]:
        """Shard, process and Ray node of everybody who waits, once they are so many."""
        end = time.monotonic() + PATIENCE
        while len(names := [path.name for path in self.folder.iterdir()]) < at_least:
            assert time.monotonic() < end, f"only {names} came to the gate"
            time.sleep(0.02)
        found = (name.split(".") for name in sorted(names))
        return [(int(shard), int(pid), node) for shard, pid, node in found]


def _node() -> str:
    ray = sys.modules.get("ray")
    return ray.get_runtime_context().get_node_id() if ray is not None and ray.is_initialized() else ""
