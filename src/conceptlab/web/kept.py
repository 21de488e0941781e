"""Results of finished jobs, kept while they fit: the one that nobody asked for the longest goes first."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from conceptlab.web.job import Job

PART = 64  # bytes that any part costs
SMALLEST = 2**14  # bytes that any job costs, so that their number stays bounded, too
DEEPEST = 6


def weight_of(result: Any, depth: int = 0) -> int:
    """About how many bytes a result holds: arrays and tensors by their size, containers and dataclasses by their parts."""
    if isinstance(result, bytes | bytearray | str):
        return PART + len(result)
    size = getattr(result, "nbytes", None)
    if isinstance(size, int):
        return PART + size
    if depth >= DEEPEST or result is None or isinstance(result, bool | int | float):
        return PART
    return PART + sum(weight_of(part, depth + 1) for part in _parts(result))


def _parts(result: Any) -> list[Any]:
    if isinstance(result, Mapping):
        return list(result.values())
    if isinstance(result, list | tuple | set | frozenset):
        return list(result)
    if is_dataclass(result) and not isinstance(result, type):
        return [getattr(result, field.name) for field in fields(result)]
    return []


class Kept:
    """Finished jobs within `budget` bytes; `busy` says which one must not go yet. The newest always stays."""

    def __init__(self, budget: int, busy: Callable[[Job], bool]) -> None:
        self.budget, self.bytes = budget, 0
        self._busy = busy
        self._weights: OrderedDict[Job, int] = OrderedDict()

    def add(self, job: Job, weight: int) -> list[Job]:
        """Keep a job; those that have to go."""
        weight = max(weight, SMALLEST)
        self._weights[job] = weight
        self.bytes += weight
        return self.trimmed()

    def touch(self, job: Job) -> None:
        """Somebody asked for it."""
        if job in self._weights:
            self._weights.move_to_end(job)

    def trimmed(self) -> list[Job]:
        """Let the longest unused go until the rest fits."""
        gone: list[Job] = []
        for job in list(self._weights)[:-1]:
            if self.bytes <= self.budget:
                break
            if not self._busy(job):
                self.bytes -= self._weights.pop(job)
                gone.append(job)
        return gone
