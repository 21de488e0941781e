"""Ctrl-C: nothing is left half done, and the same command goes on where it stopped."""

from collections.abc import Iterator
from contextlib import contextmanager

from conceptlab.errors import ConceptlabError


class Interrupted(ConceptlabError):
    """The user stopped the run; every part that was committed is kept."""

    exit_code = 130


@contextmanager
def interruptible(kept: str = "finished parts are kept") -> Iterator[None]:
    """Turn Ctrl-C in the body into `Interrupted`. `kept` says what is not lost.

    Nothing more is needed: parts become visible only by their commit record (`checkpoint.py`), so a body that stops
    anywhere leaves whole parts and no others.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; {kept}") from error
