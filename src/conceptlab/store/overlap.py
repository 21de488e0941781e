"""Writing beside computing: one thread does what it is given, in order; whoever gives too much waits."""

import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

DEEP = 2  # batches that may wait
PATIENCE = 0.05  # seconds after which a giver that waits for the thread looks whether it still works
T = TypeVar("T")


class Overlap:
    """A writer thread, used as a context manager, or with `start` and `end`. `waited` are the seconds for which the giver had to
    wait for it.

    The first error of the thread is raised by the next `give` or at the end of the body; what was given after it is not done.
    """

    def __init__(self) -> None:
        self.waited = 0.0
        self._queue: queue.Queue[Callable[[], None] | None] = queue.Queue(DEEP)
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Overlap":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            self._error = self._error or error
        self.end()
        if kind is None:
            self.check()

    def start(self) -> "Overlap":
        """Begin to do what is given."""
        self._thread.start()
        return self

    def end(self) -> None:
        """Wait until all that was given is done; may be called again where the wait was interrupted. Raises no error of the
        thread."""
        if self._thread.ident is not None and not self._ended.is_set():
            self._put(None)
            self._ended.wait()  # not join: interrupted, it takes the thread for ended

    def check(self) -> None:
        """Raise the thread's error, if it has one."""
        if self._error is not None:
            raise self._error

    def give(self, work: Callable[[], None]) -> None:
        """Have `work` done after what was given before."""
        self.check()
        self._put(work)

    def next_of(self, filled: "queue.SimpleQueue[T]") -> T:
        """The next thing of a queue that the thread's work fills. Raises the thread's error, after which nothing would come."""
        start = time.perf_counter()
        while True:
            try:
                found = filled.get(timeout=PATIENCE)
            except queue.Empty:
                self.check()
                continue
            self.waited += time.perf_counter() - start
            return found

    def _put(self, work: Callable[[], None] | None) -> None:
        start = time.perf_counter()
        self._queue.put(work)
        self.waited += time.perf_counter() - start

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            if self._error is None:
                try:
                    work()
                except BaseException as error:  # raised again by whoever gives or waits
                    self._error = error
        self._ended.set()
