"""What the viewer has open: atlases, the live model, labelled texts, circuits, notes and jobs, each found by its id."""

import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from conceptlab.errors import ConceptlabError, InputError, ModelError
from conceptlab.web.atlas_shelf import AtlasShelf
from conceptlab.web.beside import (
    EXPLAINED,
    FOUND,
    Explained,
    Finding,
    folders_beside,
    is_atlas,
    read_explained,
    read_finding,
)  # fmt: skip

if TYPE_CHECKING:
    from conceptlab.data import Concept, ConceptSet
    from conceptlab.model import Model
    from conceptlab.results import Circuit


class LiveModel:
    """The model behind the pages, loaded by another thread so that the first page comes at once.

    `state`: loading, ready or failed; `said`: one line for the reader.
    """

    def __init__(self, name: str, load: "Callable[[], Model]") -> None:
        self.name, self.state, self.said = name, "loading", "is being loaded"
        self._model: Model | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, args=(load,), name="load-model", daemon=True).start()

    @property
    def model(self) -> "Model":
        """The model; for jobs only, since it waits until it is loaded. Raises ModelError where it could not be."""
        self._done.wait()
        if self._model is None:
            raise ModelError(f"the model {self.name} could not be loaded: {self.said}")
        return self._model

    def _run(self, load: "Callable[[], Model]") -> None:
        try:
            self._model = load()
            self.state, self.said = "ready", "ready"
        except ConceptlabError as error:
            self.state, self.said = "failed", str(error)
        except Exception as error:  # noqa: BLE001 - whatever it was, the pages say so and the atlas stays readable
            self.state, self.said = "failed", f"{type(error).__name__}: {error}"
        finally:
            self._done.set()


@dataclass(eq=False)
class Desk:
    """Everything that pages look at. Ids are looked up here and never become part of a path.

    `circuits` are those of `explained`; `broken` says of a folder beside the atlases why it could not be read.
    """

    jobs: Any
    live: LiveModel | None = None
    atlases: dict[str, AtlasShelf] = field(default_factory=dict)
    concept_set: "ConceptSet | None" = None
    circuits: "dict[str, Circuit]" = field(default_factory=dict)
    findings: dict[str, Finding] = field(default_factory=dict)
    notes: Any = None
    explained: dict[str, Explained] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def atlas(self, id: str | None = None) -> AtlasShelf:
        """The atlas of that id; without one the first. Raises a 404 that lists those there are."""
        if not self.atlases:
            raise HTTPException(404, "no atlas is open; give one to conceptlab view, or make one with conceptlab map")
        if not id:
            return next(iter(self.atlases.values()))
        if id not in self.atlases:
            raise HTTPException(404, f"there is no atlas {id[:60]!r}; open are {', '.join(self.atlases)}")
        return self.atlases[id]

    def model(self) -> LiveModel:
        """The live model. Raises a 404 where the viewer was started without one."""
        if self.live is None:
            raise HTTPException(404, "there is no live model: conceptlab view was started with --no-model")
        return self.live

    def texts(self, shelf: AtlasShelf, concept: str) -> "tuple[Concept | None, str]":
        """The labelled texts that the concept of an atlas was mapped with, or None and why there are none.

        Texts count as those of the atlas when their hash is the one that the atlas holds; the embedded ones need not be given.
        """
        given = self.concept_set
        if given is None or given.data_hash != shelf.provenance.data_hash:
            embedded = _embedded_texts()
            given = embedded if embedded.data_hash == shelf.provenance.data_hash else given
        if given is None:
            return None, "no labelled texts are open; give the file that the atlas was made from with --concepts"
        if given.data_hash != shelf.provenance.data_hash:
            return None, (
                f"the labelled texts {given.name} are not those that this atlas was made from (their hash differs); "
                "give the file of the atlas with --concepts"
            )
        for candidate in given:
            if candidate.name == concept:
                return candidate, ""
        return None, f"{given.name} has no concept {concept[:60]!r}"


def open_desk(
    folders: Sequence[Path | str] = (),
    *,
    live: LiveModel | None = None,
    concept_set: "ConceptSet | None" = None,
    jobs: Any = None,
    notes: Any = None,
) -> Desk:
    """Open atlases (folders of `conceptlab map`, or a folder that holds some) and what lies beside them, each under its own id.

    A damaged or newer atlas is listed with its sentence. Folders of `conceptlab find` and `conceptlab explain` may be named, too;
    those beside an atlas are found. Raises InputError for a folder that is none of these.
    """
    from conceptlab.web.jobs import Jobs

    atlases, others = _sorted_out([Path(folder) for folder in folders])
    desk = Desk(jobs=jobs if jobs is not None else Jobs(), live=live, concept_set=concept_set, notes=notes)
    for folder, name in told_apart(atlases).items():
        id = free_id(folder.resolve().name, desk.atlases)
        desk.atlases[id] = AtlasShelf(folder, id, name)
    for folder in dict.fromkeys([*(o.resolve() for o in others), *folders_beside(atlases)]):
        _put_beside(desk, folder)
    threading.Thread(target=_warm, args=(desk,), name="warm-home", daemon=True).start()
    return desk


def _warm(desk: Desk) -> None:
    """Make the first page once beside the start of the server, so that what it reads is there when the browser asks."""
    from conceptlab.web.pages.home import home_view

    with suppress(Exception):  # whoever asks for the page is told what is wrong
        home_view(desk, {})


def told_apart(folders: Sequence[Path]) -> dict[Path, str]:
    """A name for every folder: its own, or with as many of those above it as it takes to tell it from the others."""
    parts = {folder: folder.resolve().parts for folder in folders}

    def name(folder: Path) -> str:
        own = parts[folder]
        for n in range(1, len(own) + 1):
            if sum(other[-n:] == own[-n:] for other in parts.values()) == 1:
                return "/".join(own[-n:])
        return own[-1]

    return {folder: name(folder) for folder in folders}


def free_id(name: str, taken: "dict[str, Any]") -> str:
    """A folder's name as an id: letters, digits, dots, dashes; a number behind it where it is taken."""
    base = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:80] or "atlas"
    found, at = base, 2
    while found in taken:
        found, at = f"{base}-{at}", at + 1
    return found


def _sorted_out(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Atlases, and folders of findings and circuits."""
    atlases: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for folder in folders:
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and is_atlas(p)) if folder.is_dir() else []
        if (folder / "manifest.json").exists():
            atlases[folder] = None
        elif (folder / FOUND).exists() or (folder / EXPLAINED).exists():
            others[folder] = None
        elif inside:
            atlases |= dict.fromkeys(inside)
        else:
            raise InputError(
                f"{folder} holds no atlas (no manifest.json); give the folder that conceptlab map, find or explain wrote"
            )
    return list(atlases), list(others)


def _put_beside(desk: Desk, folder: Path) -> None:
    """Open a folder of findings or of a circuit; what cannot be read is named."""
    if (folder / FOUND).is_file():
        id = free_id(folder.name, desk.findings)
        try:
            desk.findings[id] = read_finding(folder, id)
        except (ConceptlabError, OSError) as error:
            desk.broken[id] = str(error)
    if (folder / EXPLAINED).is_file():
        id = free_id(folder.name, desk.explained)
        try:
            desk.explained[id] = read_explained(folder, id)
            desk.circuits[id] = desk.explained[id].circuit
        except (ConceptlabError, OSError) as error:
            desk.broken[id] = str(error)


@lru_cache(maxsize=1)
def _embedded_texts() -> "ConceptSet":
    from conceptlab.worlds.default import default_concepts

    return default_concepts()
