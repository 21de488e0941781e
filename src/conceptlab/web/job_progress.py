"""The progress of long calls inside a job: a `Progress` that moves the job's bar, and the place where it can be stopped.

Methods that report progress (`runs.Progress`) need not know of jobs: each time such a method says how far it is, the job is
told, and a job that nobody wants any more ends there with `Cancelled`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from conceptlab.runs import SILENT, Progress, Task
from conceptlab.web.job import Cancelled, Job, Said

_thread = threading.local()


def current_job() -> Job | None:
    """The job whose step runs in this thread."""
    return getattr(_thread, "job", None)


@contextmanager
def running(job: Job) -> Iterator[None]:
    """Make `job` the current one of this thread in the body."""
    _thread.job = job
    try:
        yield
    finally:
        _thread.job = None


def job_progress(start: float = 0.0, stop: float = 1.0) -> Progress:
    """The `Progress` of the job that runs in this thread (a silent one outside of a job).

    The outermost task moves the job's bar from `start` to `stop` (shares of the whole). Its tasks raise `Cancelled` when
    they advance and the job is to stop.
    """
    job = current_job()
    return SILENT if job is None else JobProgress(job, start, stop)


class JobProgress(Progress):
    """Progress that a job shows."""

    def __init__(self, job: Job, start: float = 0.0, stop: float = 1.0) -> None:
        super().__init__(quiet=True)
        self.job, self.start, self.stop = job, start, stop

    def check(self) -> None:
        """Raise Cancelled where the job is to stop."""
        if self.job.cancelling:
            raise Cancelled

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        """Show the work in the body; inner tasks change the words only."""
        self.check()
        outer = self._depth == 0
        self._depth += 1
        try:
            task = JobTask(job=self.job, progress=self, outer=outer, total=total)
            task.describe(label)
            yield task
        finally:
            self._depth -= 1

    def say(self, line: str) -> None:
        """Show one line beside the bar."""
        self.check()
        self.job.tell(Said(text=line))


@dataclass(frozen=True)
class JobTask(Task):
    """A task of a job: it counts, tells the job, and is where the job can be stopped."""

    job: Job = field(kw_only=True)
    progress: JobProgress = field(kw_only=True)
    outer: bool = field(kw_only=True)
    total: int | None = field(default=None, kw_only=True)
    count: list[int] = field(default_factory=lambda: [0, 0], kw_only=True)  # units done, corrected total

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done. Raises Cancelled where the job is to stop."""
        self.progress.check()
        self.count[0] += n
        total = self.count[1] or self.total
        if self.outer and total:
            share = min(1.0, self.count[0] / total)
            self.job.tell(Said(self.progress.start + share * (self.progress.stop - self.progress.start)))

    def describe(self, label: str) -> None:
        """Change the words beside the bar."""
        self.progress.check()
        self.job.tell(Said(text=label))

    def resize(self, total: int) -> None:
        """Say that the work has `total` units after all."""
        self.count[1] = total
