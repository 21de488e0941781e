"""A trained model is kept and found again: a folder named by the hash of everything that determines its weights.

    <cache>/trained/<name>-<key>/model/         an ordinary model folder (safetensors and config)
    <cache>/trained/<name>-<key>/trained.json   the settings, how training went, size and sha256 of every file

The folder is made beside its place and renamed, so it is whole or not there; what does not match its hashes is trained again.
The key covers the settings, the source of the trainer, of the two functions and of the worlds and data modules that theirs import,
and the versions of torch and transformers.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from conceptlab.errors import InputError
from conceptlab.results import library_versions
from conceptlab.runs import SILENT, Progress
from conceptlab.runs.durable import listing, read_record, sync, sync_all, write_record
from conceptlab.train.trainer import Training

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SCHEMA = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,80}")


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model with how its training went (`steps`, `seconds`, `final_loss`), and whether it was found in the cache.

    `note` says why it could not be kept, where it could not.
    """

    model: "PreTrainedModel"
    steps: int
    seconds: float
    final_loss: float
    from_cache: bool
    note: str = ""


def trained(
    name: str,
    settings: Mapping[str, Any],
    make: "Callable[[], PreTrainedModel]",
    train: "Callable[[PreTrainedModel], Training]",
    *,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:
    """The model that `train(make())` gives, from the cache if it is there.

    `settings` are plain JSON values that determine the result (seed included); `make` and `train` must read nothing else.
    `cache` defaults to `$XDG_CACHE_HOME/conceptlab` (or `~/.cache/conceptlab`). A cache that cannot be written costs the next
    call the training, no more. Raises InputError for a bad name or settings that are no JSON.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name for a trained model; use lower-case letters, digits, '.', '-' and '_'")
    key = _key(name, settings, make, train)
    place = (cache or cache_folder()) / "trained" / f"{name}-{key['sha256'][:20]}"
    found = _kept(place, key)
    if found is not None:
        return found
    model = make()
    training = train(model)
    record = {"steps": len(training.losses), "seconds": training.seconds, "final_loss": training.final_loss}
    try:
        _keep(model, place, key, record)
    except OSError as error:
        note = f"{name} could not be kept in {place.parent} ({error.strerror or error}); it will be trained again"
        progress.say(note)
        return Trained(model, **record, from_cache=False, note=note)
    return Trained(model, **record, from_cache=False)


def cache_folder() -> Path:
    """Where conceptlab keeps what can be made again."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "conceptlab"


def _key(name: str, settings: Mapping[str, Any], *functions: Callable[..., Any]) -> dict[str, Any]:
    versions = library_versions()
    try:
        plain = json.loads(json.dumps(dict(settings), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"the settings of {name} must be plain JSON values: {error}") from error
    key = {
        "schema": SCHEMA,
        "name": name,
        "settings": plain,
        "code": _code(functions),
        "versions": {library: versions[library] for library in ("torch", "transformers")},
    }
    return {**key, "sha256": hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()}


def _code(functions: tuple[Callable[..., Any], ...]) -> str:
    """Hash of the trainer's source and of the modules that hold the functions, with what these import of ours."""
    files = {str(path.name): path for path in Path(__file__).parent.glob("*.py")}
    asked = [getattr(function, "func", function).__module__ for function in functions]  # functools.partial
    while asked:
        name = asked.pop()
        path = getattr(sys.modules.get(name), "__file__", None)
        if path is not None and name not in files:
            files[name] = Path(path)
            asked += re.findall(
                r"^from (conceptlab\.(?:worlds|data)[\w.]*) import", files[name].read_text("utf-8"), re.M
            )
    digest = hashlib.sha256()
    for label in sorted(files):
        digest.update(label.encode() + b"\0" + files[label].read_bytes())
    return digest.hexdigest()


def _kept(place: Path, key: Mapping[str, Any]) -> Trained | None:
    """The model in `place` if it is whole and this one's, else None."""
    import transformers

    try:
        record = read_record(place / "trained.json")
        if record is None or record.get("key") != key or listing(place / "model") != record.get("files"):
            return None
        named = json.loads((place / "model" / "config.json").read_text("utf-8"))["architectures"][0]
        model = getattr(transformers, named).from_pretrained(place / "model", local_files_only=True).eval()
        return Trained(model, **record["training"], from_cache=True)
    except (OSError, AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None  # damaged in any way: made again


def _keep(model: "PreTrainedModel", place: Path, key: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    partial = place.with_name(f".{place.name}.{uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        model.save_pretrained(partial / "model")
        write_record(
            partial / "trained.json",
            {"key": key, "training": dict(training), "files": listing(partial / "model")},
        )
        sync_all(partial)
        # only what `_kept` refused, or what another process has just made alike
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
        sync(place.parent)
    finally:
        with suppress(OSError):
            shutil.rmtree(partial, ignore_errors=True)
