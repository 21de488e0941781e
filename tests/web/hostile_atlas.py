"""An atlas whose concepts, classes and warnings have hostile names, as many as are given, written in a second.

The records are those of a real atlas (`save_concept`, `overview`); the parts of all but the first concepts are left out, since
they hold no names, and every concept's curve stands in the overview.
"""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from conceptlab.atlas.atlas import ConceptMap
from conceptlab.atlas.overview import overview_row, stacked
from conceptlab.atlas.saving import PARTS, SEAL, concept_folder, save_atlas, save_concept, seal_hash, slug
from conceptlab.atlas.sealing import file_hashes, read_sealed, seal, write_sealed
from conceptlab.results import Provenance, Site, Subspace
from tests.atlas import synthetic


def hostile_atlas(folder: Path, names: Sequence[str], *, whole: int = 2, **changed: Any) -> Path:
    """Write the atlas; the first `whole` concepts have all their parts. `changed` are fields of every concept."""
    base = synthetic.concept_map("animal", 0)
    made = [
        dataclasses.replace(base, name=name, class_names=(name, f"not {name}"), warnings=(name,), **changed)
        for name in names
    ]
    first = dataclasses.replace(synthetic.atlas(), concepts=tuple(made[:whole]), geometry=None)
    save_atlas(first, folder)
    bare = dataclasses.replace(made[0], **dict.fromkeys(PARTS))
    save_concept(folder / "bare", bare)
    pattern = read_sealed(folder / "bare" / SEAL, "concept")
    shutil.rmtree(folder / "bare")
    for concept in made[whole:]:
        write_bare(concept_folder(folder, concept.name), pattern, concept)
    row = overview_row(made[0])
    overview = stacked([{**row, "concept": slug(name)} for name in names], first.provenance)
    assert overview is not None
    overview.save(folder / "overview")
    record = read_sealed(folder / "manifest.json", "atlas")
    seals = {c.name: seal_hash(concept_folder(folder, c.name)) for c in made}
    record |= {"concepts": seals, "overview": file_hashes(folder / "overview")}
    write_sealed(folder / "manifest.json", {k: v for k, v in record.items() if k not in ("schema", "sha256")})
    return folder


def write_bare(folder: Path, pattern: Mapping[str, Any], concept: ConceptMap) -> None:
    """A concept without parts, as `save_concept` would write it, without waiting for the disk."""
    named = {"name": concept.name, "class_names": list(concept.class_names), "warnings": list(concept.warnings)}
    folder.mkdir(parents=True)
    body = {k: v for k, v in pattern.items() if k not in ("schema", "sha256")}
    (folder / SEAL).write_bytes(seal({**body, "values": {**pattern["values"], **named}}))


def direction(width: int, names: tuple[str, str]) -> Subspace:
    """A direction of a model of that width between two classes."""
    vector = torch.zeros(1, width)
    vector[0, 0] = 1.0
    made = Provenance("planted", n=2, seed=0)
    return Subspace(
        vector, torch.zeros(width), Site("resid_post", 0), "planted", names, torch.tensor([[-1.0], [1.0]]), made
    )
