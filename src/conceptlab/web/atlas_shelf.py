"""An atlas as the pages read it: open at once, each part read and verified when it is first asked for, what is broken named.

The manifest is read when the shelf is made; where it is damaged or newer the shelf holds no concept and says why. A part (depth,
heads, neurons, direction, effects) that is missing, damaged or newer is None, and `broken` has its sentence; the rest is shown.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from conceptlab.atlas.atlas import ConceptMap
from conceptlab.atlas.overview import CURVES, NUMBERS, overview_row, stacked
from conceptlab.atlas.saving import PARTS, SEAL, concept_values, manifest_values, seal_hash, slug
from conceptlab.atlas.sealing import check_files, read_sealed
from conceptlab.errors import ConceptlabError, ResultError
from conceptlab.results import Provenance, Scores
from conceptlab.results.saving import SCHEMA

HELD = 64  # concepts in memory
NO_DATA = Provenance(method="none", n=0, seed=0, versions={})


@dataclass(frozen=True)
class ConceptEntry:
    """A concept of the manifest: `id` is its slug, `sealed` the sha256 of its concept.json."""

    id: str
    name: str
    sealed: str


class AtlasShelf:
    """One atlas folder, called `name` (empty: as its folder). Methods may be called from any thread."""

    def __init__(self, folder: Path | str, id: str, name: str = "") -> None:
        self.folder, self.id, self.name = Path(folder), id, name or Path(folder).name
        self.broken: dict[str, str] = {}
        self.model: Mapping[str, Any] = {}
        self.provenance, self.seconds, self.written = NO_DATA, 0.0, ""
        self.concepts: dict[str, ConceptEntry] = {}
        self._held: OrderedDict[str, ConceptMap] = OrderedDict()
        self._values: dict[str, dict[str, Any]] = {}
        self._gathered: Scores | None = None
        self._lock = threading.RLock()
        try:
            self._record = read_sealed(self.folder / "manifest.json", "atlas")
            self._take(self._record)
        except ConceptlabError as error:
            self._fail("manifest", error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._fail("manifest", ResultError(f"manifest.json holds no atlas ({error!r}); run it again"))

    def _take(self, record: dict[str, Any]) -> None:
        values = manifest_values(record)
        self.concepts = {slug(n): ConceptEntry(slug(n), n, sealed) for n, sealed in record["concepts"].items()}
        self.model, self.provenance, self.seconds = values["model"], values["provenance"], values["seconds"]
        self.written = str(record.get("written", ""))

    @property
    def said(self) -> str:
        """Why nothing of the atlas can be shown; empty where it can."""
        return self.broken.get("manifest", "")

    @property
    def model_name(self) -> str:
        """The name of the mapped model."""
        return str(self.model.get("name", "") or self.name)

    # -- concepts ---------------------------------------------------------------------------------------------------
    def concept(self, id: str) -> ConceptMap:
        """The concept of that id, its broken parts None. Raises ResultError where its own record is damaged or newer."""
        with self._lock:
            if id in self._held:
                self._held.move_to_end(id)
                return self._held[id]
            record, at = self._sealed(id), self._folder(id)
            parts = {part: self._part(id, part, record) for part in PARTS}
            for part in sorted(set(record["parts"]) - set(PARTS)):
                self.broken[f"{id}/{part}"] = f"{part} was written by a newer conceptlab; update it to see this part"
            try:
                made = ConceptMap(**concept_values(record), **parts)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ResultError(f"{at.name} holds no concept of an atlas ({error!r}); run it again") from error
            self._held[id] = made
            if len(self._held) > HELD:
                self._held.popitem(last=False)
            return made

    def values(self, id: str) -> dict[str, Any]:
        """The fields of the concept besides its parts, without reading them. Raises ResultError as `concept` does."""
        with self._lock:
            if id not in self._values:
                self._values[id] = concept_values(self._sealed(id))
            return self._values[id]

    def part(self, id: str, part: str) -> Any:
        """One part of a concept without the others; None where it is absent or broken. Raises ResultError as `concept` does."""
        with self._lock:
            held = self._held.get(id)
            return getattr(held, part) if held is not None else self._part(id, part, self._sealed(id))

    def broken_parts(self, id: str) -> dict[str, str]:
        """Part -> sentence for what is broken of one concept, as far as it was read."""
        return {key.split("/", 1)[1]: said for key, said in self.broken.items() if key.startswith(f"{id}/")}

    def _folder(self, id: str) -> Path:
        return self.folder / "concepts" / self.concepts[id].id

    def _sealed(self, id: str) -> dict[str, Any]:
        """The record of a concept, which must be the one of the manifest."""
        at = self._folder(id)
        try:
            record = read_sealed(at / SEAL, "concept")
            if seal_hash(at) != self.concepts[id].sealed:
                raise ResultError(f"{at / SEAL} is not the one of manifest.json; run it again or restore a copy")
            return {"parts": record["parts"], "files": record["files"], "values": record["values"]}
        except KeyError as error:
            raise self._fail(f"{id}/concept", ResultError(f"{SEAL} lacks {error}; run it again")) from error
        except ConceptlabError as error:
            raise self._fail(f"{id}/concept", error) from error

    def _part(self, id: str, part: str, record: dict[str, Any]) -> Any:
        if part not in record["parts"]:
            return None
        folder, prefix = self._folder(id) / part, f"{part}/"
        expected = {k.removeprefix(prefix): v for k, v in record["files"].items() if k.startswith(prefix)}
        return self._read(f"{id}/{part}", folder, expected, PARTS[part])

    # -- what covers all concepts -----------------------------------------------------------------------------------
    @cached_property
    def geometry(self) -> Scores | None:
        """Cosines between the concepts' directions, where they were measured."""
        return self._whole("geometry")

    @property
    def overview(self) -> Scores | None:
        """Every concept's curve and verdict (`atlas.overview`), or None until `gather` has made it."""
        return self._gathered or self._saved_overview

    @cached_property
    def _saved_overview(self) -> Scores | None:
        found = self._whole("overview")
        fits = found is not None and all(name in found.data for name in (*CURVES, *NUMBERS, "found", "used", "best"))
        if found is None or (fits and [str(v) for v in found["concept"].values] == list(self.concepts)):
            return found
        self.broken["overview"] = "the overview is not that of these concepts; each is read instead"
        return None

    def gather(self) -> Iterator[tuple[int, int]]:
        """Make the overview of an atlas that has none, concept by concept; yields how many are done, of how many."""
        rows: dict[str, dict[str, Any] | None] = {}
        for i, id in enumerate(self.concepts):
            try:
                record = self._sealed(id)
                parts = {part: self._part(id, part, record) for part in ("depth", "effects")}
                rows[id] = overview_row(ConceptMap(**concept_values(record), **{**dict.fromkeys(PARTS), **parts}))
            except (ConceptlabError, KeyError, TypeError, ValueError, AttributeError):
                rows[id] = None  # the concept's own page says what is wrong with it
            yield i + 1, len(self.concepts)
        known = [row["layers"] for row in rows.values() if row is not None]
        axis = max(known, key=len, default=("embed",))
        fitting = {id: row if row is not None and row["layers"] == axis else None for id, row in rows.items()}
        self._gathered = stacked([row or _nothing(id, axis) for id, row in fitting.items()], self.provenance)

    def _whole(self, part: str) -> Scores | None:
        expected = self._record.get(part) if not self.said else None
        return None if expected is None else self._read(part, self.folder / part, expected, Scores)

    def _read(self, key: str, folder: Path, expected: Mapping[str, str], kind: Any) -> Any:
        """One part after its files were compared with their hashes; None, and its sentence kept, where that fails."""
        with self._lock:
            try:
                check_files(folder, expected)
                _check_version(folder)
                return kind.load(folder)
            except ConceptlabError as error:
                self._fail(key, error)
            except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                self._fail(key, ResultError(f"{folder} cannot be read ({error!r}); run it again"))
            return None

    def _fail(self, key: str, error: ConceptlabError) -> ConceptlabError:
        """Keep the sentence, with paths told from the atlas's own folder."""
        said = type(error)(str(error).replace(f"{self.folder}/", ""))
        self.broken[key] = str(said)
        return said


def _check_version(folder: Path) -> None:
    for name in ("scores.json", "result.json"):
        if (folder / name).is_file():
            schema = json.loads((folder / name).read_bytes()).get("schema", 0)
            if isinstance(schema, int) and schema > SCHEMA:
                raise ResultError(
                    f"{folder / name} was written by a newer conceptlab (schema {schema}, this one reads {SCHEMA}); "
                    "update it"
                )


def _nothing(id: str, layers: tuple[str, ...]) -> dict[str, Any]:
    """The overview's row of a concept that cannot be read."""
    curves = {name: np.full(len(layers), np.nan) for name in CURVES}
    numbers = dict.fromkeys(NUMBERS, np.nan)
    return {"concept": id, "layers": layers, **curves, **numbers, "found": False, "used": False, "best": -1}
