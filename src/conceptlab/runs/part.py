"""A part of a task: what a method says of its own progress moves the whole work's bar, instead of a bar of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from conceptlab.runs.progress import Progress, Task


class Part(Progress):
    """The progress of a step that is `units` units of `whole`; used as a context manager.

    The first task that the step opens moves `whole` through those units; what is left is moved when the body ends. Every advance
    of an inner task reaches `whole`, if only with 0 units, so that it can be stopped or give way there.
    """

    def __init__(self, whole: Task, units: int) -> None:
        super().__init__(quiet=True)
        self.whole, self.units, self.done = whole, units, 0

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.move(1.0)

    def move(self, share: float) -> None:
        """Bring the whole to this share of the part; never back."""
        units = max(self.done, int(min(1.0, share) * self.units + 1e-9))
        self.whole.advance(units - self.done)
        self.done = units

    @contextmanager
    def task(self, label: str, total: int | None = None) -> Iterator[Task]:  # noqa: ARG002 - as any Progress
        """A task that shows no bar of its own; the first one counts."""
        counts = self._depth == 0
        self._depth += 1
        yield PartTask(part=self, total=total if counts else None)


@dataclass(frozen=True)
class PartTask(Task):
    """A task of a part; `total` None moves nothing."""

    part: Part = field(kw_only=True)
    total: int | None = field(default=None, kw_only=True)
    count: list[int] = field(default_factory=lambda: [0, 0], kw_only=True)  # units done, corrected total

    def advance(self, n: int = 1) -> None:
        """Say that `n` more units are done."""
        self.count[0] += n
        total = self.count[1] or self.total
        self.part.move(self.count[0] / total if total else 0.0)

    def describe(self, label: str) -> None:
        """The whole keeps its words."""

    def resize(self, total: int) -> None:
        """Say that the work has `total` units after all."""
        self.count[1] = total if self.total else 0
