"""How a command fails: which exit code, which line, and how to resume."""

import os
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from conceptlab.errors import ConceptlabError, RunError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


def explain(error: BaseException, arguments: Sequence[str]) -> int:
    """Say on standard error what went wrong in one line, and what resumes where something does; the exit code."""
    if isinstance(error, BrokenPipeError):
        _drop_stdout()
        return FAILED
    if isinstance(error, KeyboardInterrupt):
        _write("interrupted; finished parts are kept")
        return _resume(arguments, INTERRUPTED)
    found = error if isinstance(error, ConceptlabError) else _translated(error)
    _write(f"{'' if found.exit_code == INTERRUPTED else 'error: '}{shortened(one_line(found))}")
    return found.exit_code if found.exit_code == WRONG_INPUT else _resume(arguments, found.exit_code)


def one_line(text: object) -> str:
    """Text without line breaks and control characters, so that nothing in a file name or label can fake output."""
    return _printable(" ".join(str(text).split()))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shortened(text: str, limit: int = 600) -> str:
    """A long line without its middle: the start says what was given, the end says what to do."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def _translated(error: BaseException) -> ConceptlabError:
    from conceptlab.runs import as_run_error

    if type(error).__module__.startswith("cyclopts"):
        from conceptlab.errors import InputError

        return InputError(f"{one_line(error).rstrip('.')}; see conceptlab --help")
    return as_run_error(error) or RunError(
        f"{type(error).__name__}: {one_line(error)[:200]}; the full trace is in {_kept(error)}"
    )


def _kept(error: BaseException) -> Path:
    """Write the full trace where the user can find it: the state folder, else the temporary one."""
    text = "".join(traceback.format_exception(error))
    name = f"trace-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (state_folder(), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return folder / name
    return Path(os.devnull)


def state_folder() -> Path:
    """`$XDG_STATE_HOME/conceptlab`, by default `~/.local/state/conceptlab`."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(base) / "conceptlab"


def _resume(arguments: Sequence[str], code: int) -> int:
    _write(f"resume with: conceptlab {shlex.join(arguments)}")
    return code


def _write(line: str) -> None:
    sys.stderr.write(f"{_printable(line)}\n")
    sys.stderr.flush()


def _drop_stdout() -> None:
    """The reader of standard output has gone; keep the interpreter from failing again when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return
