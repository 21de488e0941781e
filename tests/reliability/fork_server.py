"""A process that has imported torch and made the tiny model; every trial is a child of it, born in milliseconds.

The server runs one thread and starts none, so that its children are born whole. A call is named by "module:function" and takes and
gives plain JSON values.
"""

import copy
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from conceptlab.errors import ConceptlabError

LATE = (
    "s3fs",
    "tests.reliability.whole",
    "tests.reliability.faults",
    "tests.reliability.objects",
)  # what children would import
HANGS = 300  # seconds after which a child counts as hanging
ROOT = Path(__file__).parents[2]
QUIET = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
         "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """How a child ended: exit code (-9 where it was killed), what its call returned, and the error that it raised."""

    code: int
    value: Any = None
    error: str | None = None
    message: str = ""
    trace: str = ""
    printed: str = ""
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def checked(self) -> Any:
        """What the call returned. Raises AssertionError where it did not return."""
        assert self.code == 0, f"exit code {self.code}: {self.error} {self.message}\n{self.trace}\n{self.printed}"
        return self.value


class ForkServer:
    """The server's handle, a context manager; `run` waits for a call, `start` does not."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="reliability-"))
        line = [sys.executable, "-m", "tests.reliability.fork_server"]
        self._process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **QUIET}
        )
        self._numbers = count()
        self._environment: Mapping[str, str] = {}
        assert self._answer() == "ready"

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def within(self, environment: Mapping[str, str]) -> "ForkServer":
        """The same server; its children see other environment variables."""
        other = copy.copy(self)
        other._environment = environment
        return other

    def start(self, call: str, *arguments: Any) -> "Child":
        """Begin a call in a new child."""
        out = self.folder / str(next(self._numbers))
        asked = {"do": "start", "call": call, "arguments": arguments, "out": str(out), "environment": self._environment}
        pid = int(self._ask(asked))
        return Child(self, pid, out, time.perf_counter())

    def run(self, call: str, *arguments: Any) -> Outcome:
        """Do a call in a new child."""
        return self.start(call, *arguments).wait()

    def _ask(self, message: Mapping[str, Any]) -> str:
        self._process.stdin.write(json.dumps(message) + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self._answer()

    def _answer(self) -> str:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        assert line, f"the fork server ended with {self._process.wait()}"
        return line.strip()


@dataclass(frozen=True)
class Child:
    """A child at work."""

    server: ForkServer
    pid: int
    out: Path
    began: float

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        os.kill(self.pid, signal.SIGKILL)  # it keeps its number until it is waited for

    def kill_after(self, seconds: float) -> Outcome:
        """Kill it `seconds` after its birth."""
        time.sleep(max(0.0, self.began + seconds - time.perf_counter()))
        self.kill()
        return self.wait()

    def wait(self) -> Outcome:
        """Its end."""
        code = int(self.server._ask({"do": "wait", "pid": self.pid}))
        seconds = time.perf_counter() - self.began
        found: dict[str, Any] = {}
        if self.out.exists() and code >= 0:
            found = json.loads(self.out.read_text())
        printed = self.out.with_suffix(".txt")
        text = printed.read_text(errors="replace") if printed.exists() else ""
        self.out.unlink(missing_ok=True)
        printed.unlink(missing_ok=True)
        return Outcome(code, printed=text, seconds=seconds, **found)


def serve() -> None:
    """Answer on standard output what is asked on standard input, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from tests.reliability import small

    small.model(), small.corpus(), small.warm()
    for name in LATE:
        with suppress(ImportError):
            import_module(name)
    gc.collect()
    gc.freeze()  # or the collector of every child would copy all pages
    print("ready", file=answers, flush=True)
    while line := _line():
        asked = json.loads(line)
        if asked["do"] == "wait":
            code = os.waitstatus_to_exitcode(os.waitpid(asked["pid"], 0)[1])
            print(code, file=answers, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            answers.close()
            _child(asked)
        print(pid, file=answers, flush=True)


def _line() -> str:
    """A line of standard input, read byte by byte: what a buffer held would be read by the children, too."""
    found = bytearray()
    while (byte := os.read(0, 1)) and byte != b"\n":
        found += byte
    return found.decode()


def _child(asked: Mapping[str, Any]) -> None:
    """Do one call and end this process."""
    signal.alarm(HANGS)
    os.environ.update(asked["environment"])
    out = Path(asked["out"])
    handle = os.open(out.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT, 0o600)
    for number, other in ((0, os.open(os.devnull, os.O_RDONLY)), (1, handle), (2, handle)):
        os.dup2(other, number)
    code, found = 0, {}
    try:
        module, _, name = asked["call"].partition(":")
        found = {"value": getattr(import_module(module), name)(*asked["arguments"])}
    except BaseException as error:
        code = error.exit_code if isinstance(error, ConceptlabError) else 99
        found = {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}
    out.write_text(json.dumps(found))
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
