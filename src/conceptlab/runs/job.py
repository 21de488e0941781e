"""A job: long work over shards that any process can take up, since it is named by plain values."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from conceptlab.errors import InputError
from conceptlab.runs.ledger import Ledger


class Worker(Protocol):
    """A replica (a loaded model, say) that computes shards and commits them into its ledger.

    A worker may have an attribute `tick`, a function that it calls with `{"shard": 3, "tick": 512}` as a shard goes on.
    """

    ledger: Ledger

    def do(self, shard: int) -> Mapping[str, Any]:
        """Compute and commit one shard that this process has claimed; returns what to report (`units`, `seconds`, …)."""
        ...


@runtime_checkable
class Overlapping(Worker, Protocol):
    """A worker whose shards are published while the next ones are computed: at most one, and before the next is."""

    def begin(self, shard: int) -> Callable[[], Mapping[str, Any]]:
        """Compute one shard; calling the result waits for its commit, and gives what `do` does. Raises the error of the shard
        before, too."""
        ...

    def settle(self) -> None:
        """Wait until nothing goes on unseen: what is whole is committed, what is not is taken back."""
        ...


@dataclass(frozen=True)
class Job:
    """`make` is "package.module:function"; called with `arguments` (plain JSON values) it returns a Worker.

    `threads` of torch are fixed here, not by the launcher: the same threads give the same bytes. None: the work uses no torch.
    """

    make: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = 1

    def worker(self) -> Worker:
        """Make a worker in this process. Raises InputError where `make` names nothing."""
        return function_of(self.make)(**self.arguments)

    def to_json(self) -> str:
        """One line."""
        return json.dumps({"make": self.make, "arguments": dict(self.arguments), "threads": self.threads})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read `to_json`."""
        found = json.loads(text)
        return cls(found["make"], found["arguments"], found["threads"])


def function_of(name: str) -> Callable[..., Any]:
    """What "package.module:function" names. Raises InputError where that is nothing."""
    module, _, function = name.partition(":")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name!r} names no function; write package.module:function ({error})") from error


def listen(worker: Worker, on_tick: Callable[[Mapping[str, Any]], None] | None) -> None:
    """Have a worker that ticks call `on_tick`."""
    if on_tick is not None and hasattr(worker, "tick"):
        worker.tick = on_tick  # type: ignore[attr-defined]


def work(worker: Worker, rank: int = 0, world_size: int = 1) -> Iterator[Mapping[str, Any]]:
    """Go through the shards: this rank's own first, then whatever nobody has finished or holds. Gives a report of each.

    Locks decide who computes what, so ranks need not know of each other and may start and die at any time.
    """
    with worker.ledger as ledger:
        done = set(ledger.finished())
        own = _turned(order(ledger.n_shards, rank, world_size), in_order=ledger.locks or world_size > 1)
        left = (shard for shard in own if shard not in done)
        if isinstance(worker, Overlapping):
            yield from _overlapped(worker, left)
            return
        for shard in left:
            with ledger.claim(shard) as mine:
                if mine:
                    yield {"shard": shard, **worker.do(shard)}


def _overlapped(worker: Overlapping, shards: Iterator[int]) -> Iterator[Mapping[str, Any]]:
    """Report each shard once the next one is begun, that is when its commit was waited for; both are claimed until then. Where this
    is left in the middle, the worker settles before the ledger lets the claims go."""
    before: tuple[int, ExitStack, Callable[[], Mapping[str, Any]]] | None = None
    try:
        for shard in shards:
            claim = ExitStack()
            if not claim.enter_context(worker.ledger.claim(shard)):
                claim.close()
                continue
            begun = shard, claim, worker.begin(shard)
            earlier, before = before, begun
            if earlier is not None:
                yield _report(*earlier)
        if before is not None:
            yield _report(*before)
    finally:
        worker.settle()


def _report(shard: int, claim: ExitStack, finish: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    found = finish()
    claim.close()
    return {"shard": shard, **found}


def _turned(shards: list[int], *, in_order: bool) -> list[int]:
    """Without locks and ranks, begin anywhere: writers that know nothing of each other would compute the same shards in step."""
    start = 0 if in_order or not shards else secrets.randbelow(len(shards))
    return [*shards[start:], *shards[:start]]


def order(n_shards: int, rank: int, world_size: int) -> list[int]:
    """All shards: those of `rank`, then its neighbours' one after the other, each from the end. So a helper meets the owner as late
    as possible, and helpers meet each other rarely, which matters where there are no locks."""
    owners = ((rank + step) % world_size for step in range(1, world_size))
    others = (shard for owner in owners for shard in reversed(range(owner, n_shards, world_size)))
    return [*range(rank, n_shards, world_size), *others]
