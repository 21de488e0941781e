"""What workers say to who started them: a report of each finished shard, and how they ended, as plain JSON values."""

from collections.abc import Iterator, Mapping
from typing import Any

from conceptlab.errors import ConceptlabError, InputError, RunError
from conceptlab.runs.failures import as_run_error

Report = Mapping[str, Any]
Reports = Iterator[Report]
DONE: Report = {"end": "done"}
INTERRUPTED = 130


def failed(error: BaseException) -> Report:
    """How a worker ended that raised `error`."""
    if isinstance(error, KeyboardInterrupt):
        return {"end": "failed", "exit_code": INTERRUPTED, "message": "interrupted"}
    known = error if isinstance(error, ConceptlabError) else as_run_error(error)
    if known is None:
        return {"end": "failed", "exit_code": 1, "message": f"{type(error).__name__}: {error}"}
    return {"end": "failed", "exit_code": known.exit_code, "message": str(known)}


def error_of(said: Report) -> BaseException:
    """The error that `failed` told of: of the same exit code, with the same line."""
    if said["exit_code"] == INTERRUPTED:
        return KeyboardInterrupt()
    kind = InputError if said["exit_code"] == InputError.exit_code else RunError
    return kind(str(said["message"]))


def keep_dying(how: str) -> RunError:
    """The error of a launch whose workers die more often than they are started again."""
    return RunError(f"workers keep dying (the last one {how}); finished shards are kept, the same command goes on")
