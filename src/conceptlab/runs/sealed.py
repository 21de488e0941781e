"""Records that notice their own damage: JSON in one canonical form, with the sha256 of the rest as its `seal`."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


class Damaged(ValueError):
    """The bytes are not a sealed record as it was written; the message says how."""


def seal(record: Mapping[str, Any]) -> bytes:
    """The bytes of `record` (plain JSON values, no key `seal`) with its seal; the same record gives the same bytes."""
    plain = json.loads(json.dumps(record))
    return _bytes({**plain, "seal": hashlib.sha256(_bytes(plain)).hexdigest()})


def unseal(content: bytes) -> dict[str, Any]:
    """The record without its seal. Raises Damaged where any byte differs from what `seal` wrote."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Damaged("is no JSON") from error
    if not isinstance(found, dict) or "seal" not in found:
        raise Damaged("has no seal")
    record = {name: value for name, value in found.items() if name != "seal"}
    try:
        whole = seal(record) == content
    except (ValueError, RecursionError):  # NaN, or lists within lists without end
        whole = False
    if not whole:
        raise Damaged("does not match its seal")
    return record


def record_id(record: Mapping[str, Any]) -> str:
    """The sha256 of a record in its canonical form."""
    return hashlib.sha256(_bytes(json.loads(json.dumps(record)))).hexdigest()


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first few fields that differ, in words."""
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return ", ".join(f"{name} was {_short(old.get(name))}, now {_short(new.get(name))}" for name in changed[:3])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 48 else f"{text[:47]}…"


def _bytes(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()
