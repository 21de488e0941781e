"""A long method inside a job, that gives way to other jobs whenever it says how far it is.

A method that reports progress (`runs.Progress`) runs in a thread of its own, which works only while the engine waits for it: each
time the method moves its bar and has worked for `PIECE` seconds, it pauses there and the job yields. So one method serves the
command line and the viewer, and only one of them touches the model at a time. The method must move its bar only where no hook and
no edit is open; `explain_behaviour` says that it does.
"""

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from conceptlab.runs import SILENT, Progress
from conceptlab.web.job import Cancelled, Job, Said
from conceptlab.web.job_progress import JobProgress, current_job, running

PIECE = 0.1  # seconds after which it gives way
T = TypeVar("T")


def in_turns(
    method: Callable[[Progress], T], start: float = 0.0, stop: float = 1.0, *, piece: float = PIECE
) -> Generator[Said | None, None, T]:
    """Run `method(progress)` step by step, for `yield from`; its bar moves from `start` to `stop`. Raises what it raises.

    A job that is closed or cancelled ends the method at its next move with `Cancelled`, and waits until it has cleaned up.
    Outside of a job the method runs in one go.
    """
    job = current_job()
    if job is None:
        return method(SILENT)
    turns = _Turns(job, method, start, stop, piece)
    try:
        while not turns.step():
            yield None
        return turns.result()
    finally:
        turns.close()


class _Turns:
    """The method's thread and whose turn it is."""

    def __init__(self, job: Job, method: Callable[[Progress], Any], start: float, stop: float, piece: float) -> None:
        self.job, self.piece, self.stopping, self.over = job, piece, False, False
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._result: Any = None
        self._error: BaseException | None = None
        self._since = 0.0
        given = (method, _Pausing(self, start, stop))
        self._thread = threading.Thread(target=self._run, args=given, name=f"conceptlab {job.title}", daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """Let the method work for a piece; whether it is over."""
        self._go.release()
        self._back.acquire()
        return self.over

    def result(self) -> Any:
        """What it returned. Raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def close(self) -> None:
        """End it, and wait until it has cleaned up."""
        self.stopping = True
        if not self.over:
            self.step()
        self._thread.join()

    def pause(self) -> None:
        """In the method's thread: let others go first where it has worked long enough. Raises Cancelled where it is to end."""
        if time.monotonic() - self._since >= self.piece and not self.stopping:
            self._back.release()
            self._wait()
        if self.stopping:
            raise Cancelled

    def _wait(self) -> None:
        self._go.acquire()
        self._since = time.monotonic()

    def _run(self, method: Callable[[Progress], Any], progress: Progress) -> None:
        self._wait()
        try:
            if not self.stopping:
                with running(self.job):
                    self._result = method(progress)
        except BaseException as error:  # raised again in the engine's thread
            self._error = error
        finally:
            self.over = True
            self._back.release()


class _Pausing(JobProgress):
    """The job's progress, whose every move is a place to pause."""

    def __init__(self, turns: _Turns, start: float, stop: float) -> None:
        super().__init__(turns.job, start, stop)
        self.turns = turns

    def check(self) -> None:
        """Pause or end where that is due."""
        super().check()
        self.turns.pause()
