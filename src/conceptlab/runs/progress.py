"""Progress of long work: nested bars on standard error for a person, silence for a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


@dataclass(frozen=True)
class Task:
    """One piece of work; `advance` moves its bar, `total` corrects its length."""

    bars: "Bars | None" = None
    task_id: "TaskID | None" = None

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""
        if self.bars is not None and self.task_id is not None:
            self.bars.advance(self.task_id, n)

    def describe(self, label: str) -> None:
        """Change what the bar says."""
        if self.bars is not None and self.task_id is not None:
            self.bars.update(self.task_id, description=label)

    def resize(self, total: int) -> None:
        """Say that the work has `total` units after all."""
        if self.bars is not None and self.task_id is not None:
            self.bars.update(self.task_id, total=total)


class Progress:
    """Bars for tasks, used as a context manager; tasks opened inside a task show below it.

    Bars appear only when `stream` (standard error by default) is a terminal; `say` writes its line also into a log.
    `quiet` turns both off.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self._stream = stream
        self._bars: Bars | None = None
        self._depth = 0

    def __enter__(self) -> "Progress":
        stream = self._stream or sys.stderr
        if not self.quiet and stream.isatty():
            self._bars = _bars(stream)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:
        """Show a bar for the work in the body; `total` counts its units (None: not known beforehand)."""
        if self._bars is None:
            yield Task()
            return
        task_id = self._bars.add_task("  " * self._depth + label, total=total)
        self._depth += 1
        try:
            yield Task(self._bars, task_id)
        finally:
            self._depth -= 1
            if self._depth > 0:
                self._bars.remove_task(task_id)

    def say(self, line: str) -> None:
        """Write one line above the bars, or into the log; nothing when quiet."""
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            stream = self._stream or sys.stderr
            stream.write(f"{line}\n")
            stream.flush()


SILENT = Progress(quiet=True)


def _bars(stream: TextIO) -> "Bars":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    label = TextColumn("{task.description}", markup=False)
    return Bars(label, *columns, console=Console(file=stream), transient=False)
