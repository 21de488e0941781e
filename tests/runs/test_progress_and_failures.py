"""Progress keeps quiet where it should; estimates read well; failures of the machine are told from bugs."""

import errno
import io
import os

import pytest

from conceptlab.errors import ConceptlabError, RunError
from conceptlab.runs import SILENT, Estimate, Interrupted, Progress, as_run_error, interruptible


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(progress: Progress) -> None:
    progress.say("about 40 s [not markup]")
    with progress, progress.task("outer", 2) as outer:
        for _ in range(2):
            with progress.task("inner", 3) as inner:
                inner.advance(3)
                progress.say("said inside")
            outer.advance()
        outer.resize(5)


def test_a_terminal_sees_nested_bars_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    work(Progress(stream=stream))
    shown = stream.getvalue()
    assert "outer" in shown
    assert "  inner" in shown
    assert "about 40 s [not markup]" in shown
    assert "2/5" in shown


def test_a_pipe_sees_only_lines_and_quiet_sees_nothing() -> None:
    pipe, quiet = io.StringIO(), Terminal()
    work(Progress(stream=pipe))
    assert pipe.getvalue() == "about 40 s [not markup]\nsaid inside\nsaid inside\n"
    work(Progress(quiet=True, stream=quiet))
    assert quiet.getvalue() == ""
    work(SILENT)


def test_bars_go_away_when_the_body_raises() -> None:
    progress = Progress(stream=Terminal())
    with pytest.raises(ValueError, match="x"), progress, progress.task("t"):
        raise ValueError("x")
    with progress, progress.task("again", 1) as task:
        task.advance()


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(12345, 40.2, 1_100_000_000), "about 40 s, 1.1 GB, 12,345 texts through the model"),
        (Estimate(1, 0.01, 2_000_000), "about 1 s, 2 MB, 1 texts through the model"),
        (Estimate(0, 600, 999_900_000), "about 10 min, 1.0 GB, 0 texts through the model"),
        (Estimate(5, 7200, 500), "about 2.0 h, 1 kB, 5 texts through the model"),
        (Estimate(2, 30, 7) + Estimate(3, 31, 2_000_000_000), "about 61 s, 2.0 GB, 5 texts through the model"),
    ],
)
def test_an_estimate_reads_well(estimate: Estimate, text: str) -> None:
    assert str(estimate) == text


class OutOfMemoryError(RuntimeError):
    """Stands for torch's error of that name."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), "/x/y: the disk is full"),
        (OSError(errno.EIO, "io"), "input/output"),
        (PermissionError(errno.EACCES, "no", "/x"), "/x: no permission"),
        (MemoryError(), "no memory is left"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried"), "no memory is left"),
        (OutOfMemoryError("CUDA out of memory. Tried"), "the device is out of memory"),
        (RuntimeError("CUDA error: an illegal memory access\nwas encountered"), "the device failed (CUDA error"),
        (RunError("already said"), "already said"),
    ],
)
def test_failures_of_the_machine_become_run_errors(error: BaseException, said: str) -> None:
    found = as_run_error(error)
    assert isinstance(found, RunError)
    assert said in str(found)
    assert "\n" not in str(found)
    assert found.exit_code == 1


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "x")]
)
def test_bugs_are_not_taken_for_failures_of_the_machine(error: BaseException) -> None:
    assert as_run_error(error) is None


def test_ctrl_c_becomes_exit_code_130() -> None:
    with pytest.raises(ConceptlabError, match="interrupted; finished parts are kept") as caught, interruptible():
        raise KeyboardInterrupt
    assert isinstance(caught.value, Interrupted)
    assert caught.value.exit_code == 130
