"""What other commands wrote beside the atlases: rankings of `conceptlab find` and circuits of `conceptlab explain`."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conceptlab.errors import ConceptlabError, ResultError
from conceptlab.results import Circuit, Units

FOUND, EXPLAINED, ATLAS = "found.json", "explanation.json", "manifest.json"
HOMES = ("conceptlab-findings", "conceptlab-explanations")
MOST = 200  # folders looked at
MOST_BYTES = 16 * 2**20


@dataclass(eq=False)
class Finding:
    """One folder of `conceptlab find`: `kind` is head or neuron, `detectors` name -> searched, found, best (as in found.json).

    `model` and `revision` say which model it is of (empty where no ranking can be read), `written` when, in seconds.
    """

    id: str
    folder: Path
    kind: str
    detectors: Mapping[str, Mapping[str, Any]]
    written: float
    model: str = ""
    revision: str = ""
    broken: dict[str, str] = field(default_factory=dict)
    _held: dict[str, Units | None] = field(default_factory=dict)

    def units(self, detector: str) -> Units | None:
        """The ranking of one detector; None, with a sentence in `broken`, where it cannot be read."""
        if detector not in self._held:
            try:
                self._held[detector] = Units.load(self.folder / self.detectors[detector]["folder"])
            except (ConceptlabError, KeyError, TypeError, ValueError) as error:
                self.broken[detector] = str(error)
                self._held[detector] = None
        return self._held[detector]


@dataclass(frozen=True, eq=False)
class Explained:
    """One folder of `conceptlab explain`: its circuit and what explanation.json says of it."""

    id: str
    folder: Path
    circuit: Circuit
    record: Mapping[str, Any]
    written: float


def read_finding(folder: Path, id: str) -> Finding:
    """The rankings of a folder. Raises ResultError where found.json is no record of them."""
    record = _json(folder / FOUND)
    detectors = record.get("detectors")
    names = [p.name for p in folder.iterdir()]
    if not isinstance(detectors, dict) or any(
        not isinstance(said, dict) or said.get("folder") not in names for said in detectors.values()
    ):
        raise ResultError(f"{folder / FOUND} is no record of conceptlab find; run it again")
    found = Finding(id, folder, str(record.get("kind", "head")), detectors, (folder / FOUND).stat().st_mtime)
    for name in detectors:
        units = found.units(name)
        if units is not None:
            found.model, found.revision = units.scores.provenance.model, units.scores.provenance.revision
            break
    return found


def read_explained(folder: Path, id: str) -> Explained:
    """The circuit of a folder. Raises ResultError where it cannot be read."""
    record = _json(folder / EXPLAINED)
    return Explained(id, folder, Circuit.load(folder / "circuit"), record, (folder / EXPLAINED).stat().st_mtime)


def folders_beside(atlases: list[Path]) -> Iterator[Path]:
    """Folders in, next to and in the usual homes next to the atlases that hold rankings or circuits."""
    places: dict[Path, None] = {}
    for atlas in (a.resolve() for a in atlases):
        for home in (
            atlas,
            atlas.parent,
            *(base / name for name in HOMES for base in (atlas.parent, atlas.parent.parent)),
        ):
            places[home] = None
    n, seen = 0, set()
    for place in places:
        for folder in _children(place):
            n += 1
            if n > MOST:
                return
            if folder not in seen and ((folder / FOUND).is_file() or (folder / EXPLAINED).is_file()):
                seen.add(folder)
                yield folder


def is_atlas(folder: Path) -> bool:
    """Whether a manifest there calls itself one of an atlas, readable or not."""
    try:
        with (folder / ATLAS).open("rb") as file:
            return b'"atlas"' in file.read(4096)
    except OSError:
        return False


def _children(place: Path) -> list[Path]:
    try:
        return sorted(p for p in place.iterdir() if p.is_dir() and not p.is_symlink() and not p.name.startswith("."))
    except OSError:
        return []


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict):
            raise ValueError("it is no record")
        return record
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path} cannot be read: {error}; run it again") from error
