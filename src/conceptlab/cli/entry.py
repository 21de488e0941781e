"""The one place where a command line starts and every error ends: one line on standard error and an exit code."""

import atexit
import gc
import sys
from collections.abc import Sequence
from functools import cache

from conceptlab.cli.failing import explain
from conceptlab.cli.quieting import quiet_libraries


def run_command_line(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted."""
    _exit_quickly()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--verbose" not in arguments:
        quiet_libraries()
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # the top: whatever happened, one line and no traceback
        return explain(error, arguments)
    return code


@cache
def _exit_quickly() -> None:
    """Spare the interpreter its last search for garbage, which takes seconds once the model libraries are loaded."""
    atexit.register(gc.freeze)


def _run(arguments: list[str]) -> int:
    from conceptlab.cli.app import app

    result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    return result if isinstance(result, int) else 0
