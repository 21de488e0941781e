"""One piece of work of the server: where it stands, what it said, and how a page waits for it without blocking anybody.

Work is a generator. It yields `Said` (how far it is) and `Event` (something for a stream), and returns its result; between two
yields it has the engine to itself, so no hook and no edit may stay open across a yield. All that a page does with a job
(`finished`, `events`, `cancel`) is quick and safe in the event loop; the engine's thread calls back through the loop.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from conceptlab.errors import RunError

State = Literal["queued", "running", "done", "failed", "cancelled"]
OVER = ("done", "failed", "cancelled")
MOST_EVENTS = 100_000


@dataclass(frozen=True)
class Said:
    """How far the work is: a share from 0 to 1 (None: as before) and a few words."""

    fraction: float | None = None
    text: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened, for those who stream the job: a name and plain values."""

    name: str
    data: Any = None


class Cancelled(BaseException):
    """The job is not wanted any more; not an `Exception`, so that no handler of a method takes it for a failure."""


Work = Callable[[], Generator[Said | Event | None, None, Any]]


class Job:
    """Work that the engine does step by step; made by `Jobs.submit`.

    `state` is queued, running, done, failed or cancelled; `fraction` 0 to 1 and `said` tell how far it is; `result` stands there
    when it is done, `error` (one line) when it failed; `seconds` run from its first step to its end, `worked` is the engine's.
    """

    def __init__(
        self, title: str, work: Work, *, key: Hashable, short: bool, keep: bool, weigh: Callable[[Any], int],
        changed: threading.Condition, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.id = secrets.token_hex(8)
        self.title, self.key, self.short, self.keep, self.weigh = title, key, short, keep, weigh
        self.state: State = "queued"
        self.fraction, self.said = 0.0, ""
        self.result: Any = None
        self.error: str | None = None
        self.worked = 0.0
        self.work: Work | None = work
        self.steps: Generator[Said | Event | None, None, Any] | None = None
        self.cancelling = self.read = False
        self.left = False  # cancelled since nobody asked after it: the next who asks gets it anew
        self.turn = self.asked = clock()
        self.began: float | None = None
        self.ended: float | None = None
        self._changed, self._clock = changed, clock
        self._events: list[Event] = []
        self._n_said = 0
        self._watchers: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self.state in OVER

    @property
    def watched(self) -> bool:
        """Whether somebody waits for it or reads its events at this moment."""
        return bool(self._watchers)

    @property
    def seconds(self) -> float:
        """Seconds since its first step, up to its end; 0 while it waits."""
        if self.began is None:
            return 0.0
        return (self._clock() if self.ended is None else self.ended) - self.began

    async def finished(self, timeout: float | None = None) -> bool:
        """Wait until it is over, or for `timeout` seconds; whether it is over."""
        with self._watching() as news:
            try:
                async with asyncio.timeout(timeout):
                    while not self.over:
                        await news.wait()
                        news.clear()
            except TimeoutError:
                return False
            self.read = True
            return True

    async def events(self) -> AsyncIterator[Said | Event]:
        """All events from the first one on, and the last `Said` whenever it changed; ends when the job is over."""
        n_events = n_said = 0
        with self._watching() as news:
            while True:
                news.clear()
                with self._changed:
                    over, fresh = self.over, list(self._events[n_events:])
                    said = Said(self.fraction, self.said) if self._n_said > n_said else None
                    n_events, n_said = n_events + len(fresh), self._n_said
                for event in fresh:
                    yield event
                if said is not None:
                    yield said
                if over:
                    self.read = True
                    return
                await news.wait()

    def cancel(self) -> None:
        """Ask it to stop: before its first step at once, else at its next yield or call of its progress."""
        with self._changed:
            self.cancelling = True
            if self.state == "queued":
                self.end("cancelled", error="cancelled")
            self._changed.notify_all()

    def release(self) -> None:
        """Say that a reader has gone: the job is cancelled where it was the last one and the job need not be kept."""
        with self._changed:
            if not (self.keep or self.watched or self.over):
                self.left = True
                self.cancel()

    def tell(self, item: Said | Event | None) -> None:
        """Record what the work yielded and wake those who wait. Raises RunError for more events than anybody can read."""
        if item is None:  # a bare yield: others may go first
            return
        with self._changed:
            if isinstance(item, Event):
                if len(self._events) >= MOST_EVENTS:
                    raise RunError(f"the work sent more than {MOST_EVENTS} events; ask for fewer tokens")
                self._events.append(item)
            elif isinstance(item, Said):
                self.fraction = self.fraction if item.fraction is None else min(1.0, max(0.0, float(item.fraction)))
                self.said = item.text or self.said
                self._n_said += 1
            else:
                raise TypeError(f"a job yields Said or Event, not {type(item).__name__}")
            self.wake()

    def end(self, state: State, *, result: Any = None, error: str | None = None) -> None:
        """Enter a final state and wake those who wait."""
        with self._changed:
            self.result, self.error, self.ended = result, error, self._clock()
            self.work = self.steps = None
            self.fraction = 1.0 if state == "done" else self.fraction
            self.state = state
            self.wake()

    def wake(self) -> None:
        """Wake every waiting coroutine in its own loop."""
        for loop, news in self._watchers:
            with suppress(RuntimeError):  # that loop has closed meanwhile
                loop.call_soon_threadsafe(news.set)

    @contextmanager
    def _watching(self) -> Iterator[asyncio.Event]:
        """Be counted as somebody who asks after the job."""
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        with self._changed:
            self._watchers.add(watcher)
        try:
            yield watcher[1]
        finally:
            with self._changed:
                self._watchers.discard(watcher)
                self.asked = self._clock()
