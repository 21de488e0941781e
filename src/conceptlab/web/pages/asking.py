"""What a query asks for: numbers and words out of an address, each refused in a line where it makes no sense."""

import math
from collections.abc import Mapping, Sequence

from conceptlab.errors import InputError

MOST_TEXT = 20_000  # characters of a prompt in an address


def number(
    query: Mapping[str, str], name: str, default: float, low: float = -math.inf, high: float = math.inf
) -> float:
    """A finite number within bounds; the default where it is absent or empty. Raises InputError."""
    text = query.get(name, "").strip()
    if not text:
        return default
    try:
        found = float(text)
    except ValueError:
        raise InputError(f"{name}={text[:40]!r} is no number") from None
    if not math.isfinite(found) or not low <= found <= high:
        raise InputError(f"{name}={found:g} is out of range; use {low:g} to {high:g}")
    return found


def whole(query: Mapping[str, str], name: str, default: int, low: int = 0, high: int = 2**31 - 1) -> int:
    """A whole number within bounds. Raises InputError."""
    found = number(query, name, default, low, high)
    if found != int(found):
        raise InputError(f"{name}={found:g} is no whole number")
    return int(found)


def maybe_whole(query: Mapping[str, str], name: str, low: int = 0, high: int = 2**31 - 1) -> int | None:
    """A whole number, or None where the address does not name it. Raises InputError."""
    return whole(query, name, 0, low, high) if query.get(name, "").strip() else None


def choice(query: Mapping[str, str], name: str, allowed: Sequence[str]) -> str:
    """One of `allowed`, the first where the address names none. Raises InputError."""
    found = query.get(name, "").strip() or allowed[0]
    if found not in allowed:
        raise InputError(f"{name}={found[:40]!r} is not known; use {', '.join(allowed)}")
    return found


def text(query: Mapping[str, str], name: str, default: str = "") -> str:
    """A text as it is. Raises InputError for an endless one."""
    found = query.get(name, default)
    if len(found) > MOST_TEXT:
        raise InputError(f"{name} has {len(found):,} characters; at most {MOST_TEXT:,} are taken")
    return found.replace("\r\n", "\n")
