"""How a frozen result lies on disk: tensors in safetensors, the rest in JSON, each file written whole or not at all."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.errors import ResultError, RunError

if TYPE_CHECKING:
    import torch

SCHEMA = 1


def write_bytes(path: Path, data: bytes) -> None:
    """Write through a sibling file, fsync and rename, so that a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another folder"
        ) from error


def file_name(name: str) -> str:
    """A result's name as a file name: no separators, nothing hidden."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "result"


def file_names(names: Iterable[str]) -> dict[str, str]:
    """File names of all of `names`, no two alike (nor by the case of letters)."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = chosen = file_name(name)
        at = 2
        while chosen.lower() in taken:
            chosen, at = f"{base}-{at}", at + 1
        taken.add(chosen.lower())
        found[name] = chosen
    return found


def save_result(
    folder: Path | str, kind: str, record: Mapping[str, Any], tensors: "Mapping[str, torch.Tensor]"
) -> None:
    """Write `result.safetensors` and then `result.json`, whose presence means that the result is complete."""
    from safetensors.torch import save

    folder = Path(folder)
    write_bytes(
        folder / "result.safetensors", save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    )
    text = json.dumps({"schema": SCHEMA, "kind": kind, **record}, indent=1, ensure_ascii=False)
    write_bytes(folder / "result.json", text.encode())


def load_result(folder: Path | str, kind: str) -> "tuple[dict[str, Any], dict[str, torch.Tensor]]":
    """Read what `save_result` wrote. Raises ResultError where it is missing, damaged, newer, or another kind."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    try:
        record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        tensors = load((folder / "result.safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise ResultError(f"{folder} holds no readable {kind}: {error}") from error
    if not isinstance(record, dict) or record.get("kind") != kind:
        raise ResultError(
            f"{folder} holds a {record.get('kind') if isinstance(record, dict) else 'damaged file'}, not a {kind}"
        )
    if record.get("schema", 0) > SCHEMA:
        raise ResultError(f"{folder} was written by a newer conceptlab (schema {record['schema']}); update to read it")
    return record, tensors
