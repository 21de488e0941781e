"""Throwing bad input at the command line, in process, and judging what comes back."""

import contextlib
import io
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from conceptlab.cli import entry, main

SECONDS = 30  # an input that takes longer counts as a hang
ACCEPTED = "accepted: the input is harmless"

# How many inputs each door gets; `make test` runs all of them. What they came to is printed.
N_FILES, N_LINES, N_FOLDERS = 2000, 700, 400


class Hang(BaseException):
    """Raised inside a door that takes too long; no handler of ours catches it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    old = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def enter_behind_the_parser(monkeypatch: pytest.MonkeyPatch, command: Callable[[str], int]) -> None:
    """Let `main` call `command` with the last argument; reading the command line itself is another door."""
    monkeypatch.setattr(entry, "_run", lambda arguments: command(arguments[-1]))


def throw(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


def judge(arguments: list[str], what: str, *, help_allowed: bool = False) -> str:
    """Assert that the door answers well, and say which of refused, accepted or helped it was."""
    code, out, err = throw(arguments)
    if help_allowed and code == 0:
        assert out, what
        assert not err, (what, err)
        return "helped"
    assert code == 2, (what, code, err)
    assert out == "", (what, out)
    assert err.startswith("error: "), (what, err)
    assert err.count("\n") == 1, (what, err)
    assert err.endswith("\n"), (what, err)
    assert "Traceback" not in err, (what, err)
    assert len(err) < 1500, (what, len(err))
    return "accepted" if ACCEPTED in err else "refused"


def told(door: str, counts: Counter[str]) -> str:
    said = ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts))
    return f"\n{door}: {counts.total()} malformed inputs thrown ({said}), 0 tracebacks, 0 hangs"
