"""The main job: an atlas of concepts for any transformer, resumable concept by concept."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.atlas.atlas import Atlas, ConceptMap
from conceptlab.atlas.cost import estimate_run
from conceptlab.atlas.one_concept import map_concept
from conceptlab.atlas.reading import locate, make_problem
from conceptlab.atlas.saving import load_concept, save_concept, slug
from conceptlab.atlas.use import Q_MAX
from conceptlab.evidence import q_values
from conceptlab.measure.geometry.cosines import concept_cosines
from conceptlab.pages.bundle import begin_bundle
from conceptlab.results import Provenance, Scores
from conceptlab.runs import SILENT, Checkpoint, Progress

if TYPE_CHECKING:
    from conceptlab.data import ConceptSet
    from conceptlab.model import Model

STEPS = 4  # progress steps a concept
MOST_PERMUTATIONS = 1000


def map_concepts(  # noqa: PLR0913 - the settings of a run
    model: "Model",
    concepts: "ConceptSet",
    *,
    seed: int = 0,
    out: Path | str | None = None,
    permutations: int | None = None,
    quick: bool = False,
    n_random: int = 100,
    progress: Progress = SILENT,
) -> Atlas:
    """Map every concept of `concepts` on `model` and decide which are found (q <= 0.05 over the run, Benjamini-Hochberg).

    `permutations` defaults to 200, or as many as the least p needs among this many concepts (20 each, at most 1,000).
    `quick` leaves out noised inputs and int8 weights (one pass over the rows in place of three). With `out`, finished concepts
    are kept there and the same call goes on after an interruption; the atlas and its `report.html` end up in that folder.
    Raises DataError before anything runs where rows, spans or folds do not work out.
    """
    start = time.monotonic()
    if out is not None:
        begin_bundle()  # the charts' script is put together beside the run, so the report need not wait for it
    permutations = permutations or min(MOST_PERMUTATIONS, max(200, 20 * len(concepts)))
    settings = {"permutations": permutations, "quick": quick, "n_random": n_random, "q_max": Q_MAX}
    provenance = Provenance(
        method="map", n=sum(c.n for c in concepts), seed=seed, model=model.name, revision=model.revision,
        data_hash=concepts.data_hash, settings=settings, causal="ablation",
        warnings=few_permutations(permutations, len(concepts)),
    )  # fmt: skip
    for concept in concepts:
        locate(model, concept)
        make_problem(concept, 0, seed)
    progress.say(str(estimate_run(model, concepts, permutations=permutations, quick=quick, n_random=n_random)))
    with _checkpoint(model, concepts, provenance, out) as run:
        maps = decide(_map_all(model, concepts, provenance, run, progress))
        atlas = Atlas(
            model=describe(model), concepts=tuple(maps), geometry=_geometry(model, maps, provenance),
            provenance=replace(provenance, passes=sum(m.depth.provenance.passes for m in maps)),
            seconds=time.monotonic() - start,
        )  # fmt: skip
        if out is not None and run is not None:
            atlas.save(out)
            atlas.report(Path(out) / "report.html")
            run.clear()
    return atlas


def _checkpoint(
    model: "Model", concepts: "ConceptSet", provenance: Provenance, out: Path | str | None
) -> AbstractContextManager[Checkpoint | None]:
    """Where finished concepts are kept until the atlas is written: what determines the results is the key."""
    if out is None:
        return nullcontext(None)
    key = {
        "model": model.name, "revision": model.revision, "data": concepts.data_hash, "seed": provenance.seed,
        "settings": dict(provenance.settings), "versions": dict(provenance.versions),
    }  # fmt: skip
    return Checkpoint(Path(out) / ".run", key)


def _map_all(
    model: "Model", concepts: "ConceptSet", provenance: Provenance, run: Checkpoint | None, progress: Progress
) -> list[ConceptMap]:
    """Map the concepts one by one; with `run` each is committed when it is done and not done again."""
    options = {name: provenance.settings[name] for name in ("permutations", "quick", "n_random")}
    maps = []
    with progress.task("concepts", len(concepts) * STEPS) as task:
        for concept in concepts:
            folder = None if run is None else run.finished(slug(concept.name))
            if folder is not None:
                maps.append(load_concept(folder / "concept"))
                task.advance(STEPS)
                continue
            maps.append(map_concept(model, concept, provenance, on_step=task.advance, **options))
            if run is not None:
                with run.part(slug(concept.name)) as part:
                    save_concept(part / "concept", maps[-1])
    return maps


def few_permutations(permutations: int, n_concepts: int) -> tuple[str, ...]:
    """A warning where the least possible p is too large for one concept among `n_concepts` to be found alone."""
    needed = math.ceil(n_concepts / (Q_MAX * (permutations + 1)) - 1e-9)
    if needed <= 1:
        return ()
    return (
        f"{permutations} permutations give p >= 1/{permutations + 1}: among {n_concepts} concepts none can be found unless "
        f"{needed} are; give at least {math.ceil(n_concepts / Q_MAX) - 1} permutations, or fewer concepts",
    )


def decide(maps: Sequence[ConceptMap]) -> list[ConceptMap]:
    """Fill in q over all concepts and `found`."""
    q = q_values(np.array([m.p for m in maps]))
    return [replace(m, q=float(v), found=bool(v <= Q_MAX)) for m, v in zip(maps, q, strict=True)]


def describe(model: "Model") -> dict[str, object]:
    """What an atlas says of its model."""
    return {
        "name": model.name, "revision": model.revision, "n_layers": model.n_layers, "n_heads": model.n_heads,
        "d_model": model.d_model, "d_mlp": model.d_mlp, "has_logits": model.has_logits,
    }  # fmt: skip


def _geometry(model: "Model", maps: Sequence[ConceptMap], provenance: Provenance) -> Scores | None:
    """Cosines between the concepts' directions (of classes: the first axis of their subspace)."""
    kept = [m for m in maps if m.direction is not None]
    if len(kept) < 2:
        return None
    directions = torch.stack([m.direction.vector for m in kept if m.direction is not None])
    unembedding = model.unembedding if model.has_logits else None
    if unembedding is not None and (unembedding.shape[-1] != model.d_model or unembedding.device.type == "meta"):
        unembedding = None  # an output embedding of another width, or one that is not held in memory
    return concept_cosines(directions, [m.name for m in kept], unembedding, provenance)
