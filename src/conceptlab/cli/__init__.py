"""The command line: options come from signatures, heavy imports stay inside the commands."""

from conceptlab.cli.main import main

__all__ = ["main"]
