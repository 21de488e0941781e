"""The command line: options come from signatures, heavy imports stay inside the commands."""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Nothing is imported before, so that Ctrl-C is ours from the start."""
    try:
        from conceptlab.cli.entry import run_command_line
    except KeyboardInterrupt:
        return 130
    return run_command_line(argv)
