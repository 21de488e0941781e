"""The work of the server: one engine thread, many clients, each page answered in turn and none of them frozen.

The engine steps generator jobs: short ones first, the oldest of them before the others; long ones in turn, so that two streams
move side by side. A long job gets every `LONG_TURN`th step even under a flood of short ones, and a short job that has used
`SHORT_SECONDS` of the engine counts as long. The same key is the same job. Results stay while they fit in `budget` bytes.
"""

import logging
import threading
import time
from collections.abc import Callable, Generator, Hashable
from contextlib import suppress
from typing import Any

from conceptlab.errors import ConceptlabError, RunError
from conceptlab.runs import as_run_error
from conceptlab.web.job import Cancelled, Event, Job, Said, State, Work
from conceptlab.web.job_progress import current_job, job_progress, running
from conceptlab.web.kept import Kept, weight_of

__all__ = ["Busy", "Cancelled", "Event", "Job", "Jobs", "Said", "Work", "current_job", "job_progress", "weight_of"]

BUDGET = 256 * 2**20
MOST_WAITING = 64
MOST_BEGUN = 8  # long jobs whose intermediate values lie in memory at once
ALONE = 15.0  # seconds after which a job that nobody asked after is cancelled
FAILED_KEPT = 3.0  # seconds for which the same key gets the same failure, so that a page that polls can show it
TIDY = 0.5
LONG_TURN = 8
SHORT_SECONDS = 2.0
log = logging.getLogger("conceptlab.web")


class Busy(RunError):
    """More work waits than the server will queue."""


class Jobs:
    """The jobs of one server. Methods may be called from any thread; `clock` gives seconds."""

    def __init__(
        self, *, budget: int = BUDGET, most_waiting: int = MOST_WAITING, alone: float = ALONE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.most_waiting, self.alone, self._clock = most_waiting, alone, clock
        self._changed = threading.Condition(threading.RLock())
        self._jobs: dict[str, Job] = {}
        self._live: dict[str, Job] = {}
        self._by_key: dict[Hashable, Job] = {}
        self._kept = Kept(budget, self._unread)
        self._short_steps = 0
        self._tidied = clock()
        self._engine: threading.Thread | None = None
        self.closed = False

    def submit(
        self, title: str, work: Work | Callable[[], Any], *, key: Hashable, short: bool = False, keep: bool = False,
        again: bool = False, weigh: Callable[[Any], int] = weight_of,
    ) -> Job:  # fmt: skip
        """The job of this key: the one that waits, runs or is done, else a new one.

        A failed or cancelled job is given for a few seconds more, so that a page that polls shows how it ended; `again` starts it
        anew at once. `short` jobs go first; `keep` ones run though nobody asks after them; `weigh` gives a result's bytes.
        Raises Busy where too many wait, RunError where the server is closing.
        """
        with self._changed:
            if self.closed:
                raise RunError("the server is closing; start conceptlab view again")
            known = self._known(key, again)
            if known is not None:
                known.asked = self._clock()
                self._kept.touch(known)
                return known
            if sum(job.state == "queued" for job in self._live.values()) >= self.most_waiting:
                raise Busy(f"{self.most_waiting} pieces of work wait already; wait for one to end, or cancel some")
            made = Job(
                title, work, key=key, short=short, keep=keep, weigh=weigh, changed=self._changed, clock=self._clock
            )
            self._jobs[made.id] = self._live[made.id] = self._by_key[key] = made
            self._start()
            self._changed.notify_all()
            return made

    def get(self, id: str) -> Job | None:
        """The job of this id, as long as it is remembered; asking keeps it alive."""
        with self._changed:
            found = self._jobs.get(id)
            if found is not None:
                found.asked = self._clock()
                self._kept.touch(found)
            return found

    def listed(self) -> list[Job]:
        """Jobs that wait or run, in the order in which they came."""
        with self._changed:
            return [job for job in self._live.values() if not job.over]

    def ahead(self, job: Job) -> int:
        """How many jobs go before this one: short ones, and older ones of its kind."""
        jobs = self.listed()
        if job not in jobs:
            return 0
        before = set(jobs[: jobs.index(job)])
        return sum(other.short > job.short or (other.short == job.short and other in before) for other in jobs)

    def close(self, timeout: float = 5.0) -> None:
        """Cancel everything and end the engine's thread; waits for at most `timeout` seconds for the step that runs."""
        with self._changed:
            self.closed = True
            for job in self.listed():
                job.cancel()
            self._changed.notify_all()
        if self._engine is not None and self._engine is not threading.current_thread():
            self._engine.join(timeout)

    def _known(self, key: Hashable, again: bool) -> Job | None:
        """The job of the key that may be given once more."""
        known = self._by_key.get(key)
        if known is None or known.state == "done":
            return known
        if known.left:
            return None
        if not known.over:
            return known
        fresh = known.ended is not None and self._clock() - known.ended < FAILED_KEPT
        return known if fresh and not again else None

    def _start(self) -> None:
        if self._engine is None:
            self._engine = threading.Thread(target=self._run, name="conceptlab engine", daemon=True)
            self._engine.start()

    def _run(self) -> None:
        """The engine: one step at a time until the server closes."""
        while True:
            with self._changed:
                self._tidy()
                job = self._next()
                if job is None:
                    if self.closed:
                        return
                    self._changed.wait(5.0 if self._jobs else None)
                    continue
                job.state = "running"
            self._step(job)

    def _next(self) -> Job | None:
        """Whose turn it is: one that is to stop, then the oldest short one, then the long one that waited the longest."""
        jobs = self.listed()
        if len(jobs) < len(self._live):
            self._live = {job.id: job for job in jobs}
        stopping = [job for job in jobs if job.cancelling]
        if stopping:
            return stopping[0]
        short = [job for job in jobs if job.short and job.worked < SHORT_SECONDS]
        begun = [job for job in jobs if job not in short and job.steps is not None]
        long = (
            begun + [job for job in jobs if job not in short and job.steps is None][: max(0, MOST_BEGUN - len(begun))]
        )
        if short and not (long and self._short_steps >= LONG_TURN):
            self._short_steps += bool(long)
            return short[0]
        self._short_steps = 0
        return min(long, key=lambda job: job.turn, default=None)

    def _step(self, job: Job) -> None:
        """Do one step of a job, or end it."""
        if job.cancelling:
            return self._end(job, "cancelled", error="cancelled")
        begun = self._clock()
        job.began = begun if job.began is None else job.began
        try:
            with running(job):
                over, result = _advance(job)
            weight = job.weigh(result) if over else 0
        except Cancelled:
            self._end(job, "cancelled", error="cancelled")
        except ConceptlabError as error:
            self._end(job, "failed", error=_line(error))
        except BaseException as error:  # whatever a model raises: the page says so and the engine goes on
            self._end(job, "failed", error=_said(job, error))
        else:
            job.turn = self._clock()
            job.worked += job.turn - begun
            if over:
                self._end(job, "done", result=result, weight=weight)

    def _end(
        self, job: Job, state: State, *, result: Any = None, error: str | None = None, weight: int = 0
    ) -> None:  # fmt: skip
        """Close the generator, so that no hook stays, and record how the job ended."""
        steps = job.steps
        if steps is not None:
            try:
                steps.close()
            except BaseException as failure:  # a generator that fails while it closes: said in the log, and over
                _said(job, failure)
        with self._changed:
            job.end(state, result=result, error=error)
            if state == "done":
                for gone in self._kept.add(job, weight):
                    self._forget(gone)

    def _tidy(self) -> None:
        """Cancel jobs that nobody asks after, forget old failures, let results go that do not fit."""
        now = self._clock()
        if now - self._tidied < TIDY and not self.closed:
            return
        self._tidied = now
        for job in self.listed():
            if not (job.keep or job.watched) and now - job.asked > self.alone:
                job.left = True
                job.cancel()
        for job in [job for job in self._jobs.values() if job.state in ("failed", "cancelled")]:
            if not job.watched and now - (job.ended or now) > 2 * FAILED_KEPT:
                self._forget(job)
        for gone in self._kept.trimmed():
            self._forget(gone)

    def _unread(self, job: Job) -> bool:
        """Whether somebody may still come for the result of a job that has just ended."""
        return job.watched or (not job.read and self._clock() - (job.ended or 0.0) < self.alone)

    def _forget(self, job: Job) -> None:
        self._jobs.pop(job.id, None)
        if self._by_key.get(job.key) is job:
            del self._by_key[job.key]


def _advance(job: Job) -> tuple[bool, Any]:
    """Run to the next yield: whether the work is over, and its result. A plain function is one step."""
    steps = job.steps
    if steps is None:
        made = None if job.work is None else job.work()
        if not isinstance(made, Generator):
            return True, made
        job.steps = steps = made
    try:
        job.tell(next(steps))
    except StopIteration as end:
        return True, end.value
    return False, None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _said(job: Job, error: BaseException) -> str:
    """One line for the page; the trace goes into the log."""
    with suppress(Exception):  # a log that cannot be written costs the trace, not the answer
        log.error("%s failed", job.title, exc_info=error)
    known = as_run_error(error)
    if known is not None:
        return _line(known)
    return f"{type(error).__name__}: {_line(error)[:200]}; the full trace is in the server's log"
