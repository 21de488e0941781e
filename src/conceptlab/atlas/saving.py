"""How an atlas lies on disk, so that a run can commit one concept at a time.

manifest.json               written last: model, data hash, seed, versions, times, and the sha256 of every concept.json
geometry/                   Scores (zarr), where there is one
overview/                   Scores (zarr): every concept's curve and verdict in one table, so that it can be shown at once
concepts/<slug>/            one folder a concept: depth/ heads/ neurons/ effects/ (zarr), direction/ (safetensors)
concepts/<slug>/concept.json  written last: the concept's numbers and the sha256 of every file of its folder
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptlab.atlas.sealing import check_files, file_hashes, read_sealed, write_sealed
from conceptlab.errors import ResultError, RunError
from conceptlab.results import Provenance, Scores, Subspace, Units

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import Atlas, ConceptMap

PARTS: dict[str, Any] = {"depth": Scores, "heads": Units, "neurons": Units, "direction": Subspace, "effects": Scores}
SEAL = "concept.json"
_PLAIN = re.compile(r"(?!(?:con|prn|aux|nul|com\d|lpt\d)$)[a-z][a-z0-9_]{0,39}")


def slug(name: str) -> str:
    """A folder name for a concept's name: no separators, no dots, at most 51 characters, different for different names.

    A plain lower-case name stays as it is; any other gets a dash, which a plain name cannot hold, and its hash.
    """
    if _PLAIN.fullmatch(name):
        return name
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:40] or "concept"
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def concept_folder(atlas_folder: Path | str, name: str) -> Path:
    """Where an atlas keeps the concept of that name."""
    return Path(atlas_folder) / "concepts" / slug(name)


def save_concept(folder: Path | str, concept: "ConceptMap") -> None:
    """Commit one concept into its own `folder` (see `concept_folder`); an older one stays until the new one is whole.

    Writing the same arrays again replaces `concept.json` only. Raises RunError when the disk refuses.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        present = [part for part in PARTS if getattr(concept, part) is not None]
        for part in present:
            getattr(concept, part).save(partial / part)
        files = file_hashes(partial)
        record = {"kind": "concept", "parts": present, "files": files, "values": _values(concept)}
        if folder.is_dir() and _hashes_or_none(folder) == files:
            write_sealed(folder / SEAL, record)
        else:
            write_sealed(partial / SEAL, record)
            _swap(partial, folder)
    except OSError as error:
        raise RunError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_concept(folder: Path | str) -> "ConceptMap":
    """Read what `save_concept` wrote, verifying every file. Raises ResultError: missing, damaged or newer."""
    from conceptlab.atlas.atlas import ConceptMap

    folder = Path(folder)
    record = read_sealed(folder / SEAL, "concept")
    check_files(folder, record["files"], without=SEAL)
    try:
        parts: dict[str, Any] = {
            part: kind.load(folder / part) if part in record["parts"] else None for part, kind in PARTS.items()
        }
        return ConceptMap(**concept_values(record), **parts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{folder} holds no concept of an atlas ({error!r}); run it again") from error


def concept_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ConceptMap` besides its parts, from what stands in `concept.json`."""
    return {name: _read(value) for name, value in record["values"].items()}


def manifest_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Model, provenance and seconds of an `Atlas`, from what stands in `manifest.json`."""
    return {
        "model": {k: _read(v) for k, v in record["model"].items()},
        "provenance": Provenance.from_record(_read(record["provenance"])),
        "seconds": _read(record["seconds"]),
    }


def save_atlas(atlas: "Atlas", folder: Path) -> Path:
    """Write an atlas; concepts of an earlier one in the same folder go. Raises RunError when the disk refuses."""
    for concept in atlas.concepts:
        save_concept(concept_folder(folder, concept.name), concept)
    if atlas.geometry is not None:
        atlas.geometry.save(folder / "geometry")
    overview = _save_overview(atlas, folder / "overview")
    kept = {slug(c.name) for c in atlas.concepts}
    record = {
        "kind": "atlas",
        "model": {k: _write(v) for k, v in atlas.model.items()},
        "concepts": {c.name: seal_hash(concept_folder(folder, c.name)) for c in atlas.concepts},
        "geometry": file_hashes(folder / "geometry") if atlas.geometry is not None else None,
        "overview": overview,
        "provenance": _write(atlas.provenance.to_record()),
        "seconds": _write(atlas.seconds),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_sealed(folder / "manifest.json", record)
    for old in (folder / "concepts").glob(f"*/{SEAL}"):
        if old.parent.name not in kept:
            shutil.rmtree(old.parent, ignore_errors=True)
    return folder


def _save_overview(atlas: "Atlas", folder: Path) -> dict[str, str] | None:
    """Write the overview and give its hashes; None, and no older one stays, where there is none."""
    from conceptlab.atlas.overview import overview_of

    overview = overview_of(atlas.concepts, atlas.provenance)
    if overview is None:
        shutil.rmtree(folder, ignore_errors=True)
        return None
    overview.save(folder)
    return file_hashes(folder)


def load_atlas(folder: Path) -> "Atlas":
    """Read what `save_atlas` wrote. Raises ResultError: missing, damaged, newer, or changed after the manifest."""
    record = read_sealed(folder / "manifest.json", "atlas")
    try:
        return _atlas_of(record, folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultError(f"{folder} holds no atlas ({error!r}); run it again or give another folder") from error


def _atlas_of(record: dict[str, Any], folder: Path) -> "Atlas":
    from conceptlab.atlas.atlas import Atlas

    concepts = []
    for name, expected in record["concepts"].items():
        at = concept_folder(folder, name)
        concepts.append(load_concept(at))
        if seal_hash(at) != expected:
            raise ResultError(
                f"{at / SEAL} is not the one of {folder / 'manifest.json'}; run it again or restore a copy"
            )
    geometry = None
    if record["geometry"] is not None:
        check_files(folder / "geometry", record["geometry"])
        geometry = Scores.load(folder / "geometry")
    if record.get("overview") is not None:  # atlases written before there were overviews have none
        check_files(folder / "overview", record["overview"])
    return Atlas(concepts=tuple(concepts), geometry=geometry, **manifest_values(record))


def _values(concept: "ConceptMap") -> dict[str, Any]:
    return {f.name: _write(getattr(concept, f.name)) for f in fields(concept) if f.name not in PARTS}


def _write(value: Any) -> Any:
    """Plain JSON; a float that JSON has no word for is kept as {"float": "nan"}, numpy's scalars become Python's."""
    if isinstance(value, Mapping):
        return {str(k): _write(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_write(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"float": str(value)}
    return value


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {k: _read(v) for k, v in value.items()}
    return tuple(_read(v) for v in value) if isinstance(value, list) else value


def seal_hash(folder: Path) -> str:
    """The sha256 of a concept's `concept.json`, as the manifest holds it."""
    return hashlib.sha256((folder / SEAL).read_bytes()).hexdigest()


def _hashes_or_none(folder: Path) -> dict[str, str] | None:
    try:
        return file_hashes(folder, without=SEAL)
    except ResultError:
        return None


def _swap(new: Path, old: Path) -> None:
    """Put `new` in the place of `old`. Between the two renames the old one lies beside it, never nowhere."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
