"""What a file says about itself in a literal (`CARD`, `RECIPE`), read from its source without importing it."""

import ast
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conceptlab.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]
PARSING = threading.Lock()
TRIES = 5


def literal(path: Path, name: str) -> dict[str, Any] | None:
    """The dictionary that the module at `path` assigns to `name`, None where it assigns none.

    Raises InputError where the file is no Python or the value is no literal.
    """
    try:
        source = path.read_text(encoding="utf-8")
        if name not in source:
            return None
        for node in _parsed(source).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
                value = ast.literal_eval(node.value)
                return value if isinstance(value, dict) else None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: {name} cannot be read ({error}); write it as a literal dictionary") from error
    return None


def _parsed(source: str) -> ast.Module:
    """Parsed by one thread at a time, and again where Python's own counter was mixed up.

    CPython 3.11 counts the depth of a tree once for all threads: when another one parses meanwhile (NumPy does so
    for every header of an array file), a sound source ends in a SystemError.
    """
    with PARSING:
        for _ in range(TRIES - 1):
            try:
                return ast.parse(source)
            except SystemError:
                continue
        return ast.parse(source)


def literals(folder: Path, name: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(file, dictionary) of every module below `folder` that has one, in order of the paths."""
    for path in sorted(folder.rglob("*.py")):
        found = literal(path, name)
        if found is not None:
            yield path, found


def methods() -> list[tuple[str, dict[str, Any]]]:
    """(file below the package, CARD) of every method."""
    return [(path.relative_to(PACKAGE).as_posix(), card) for path, card in literals(PACKAGE, "CARD")]
