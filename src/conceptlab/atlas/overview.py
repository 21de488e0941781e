"""The overview of an atlas: every concept's curve and verdict in one small table, so that a thousand of them are read at once."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from conceptlab.atlas.saving import slug
from conceptlab.atlas.words import is_used
from conceptlab.results import Provenance, Scores

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import ConceptMap

CURVES = ("score", "low", "high", "control")
NUMBERS = ("q", "jump", "settled", "effect", "effect_control")


def overview_of(concepts: "Iterable[ConceptMap]", provenance: Provenance) -> Scores | None:
    """`score low high control` [concept, layer], and `found used best q jump settled effect effect_control` [concept].

    Concepts are labelled by their `slug`. `best` is the position of the best layer (-1: none of the axis), `used` whether the
    headline effect exceeds its random controls; what is not there is NaN. None for no concepts, or where their layers differ.
    """
    rows = [overview_row(concept) for concept in concepts]
    return stacked(rows, provenance)


def overview_row(concept: "ConceptMap") -> dict[str, Any]:
    """One concept's part: its slug, its layers, the curves [layer] and the numbers."""
    data = concept.depth.data
    layers = tuple(map(str, data["layer"].values))
    none = np.full(len(layers), np.nan)
    curves = {name: np.asarray(data[name].values, dtype=float) if name in data else none for name in CURVES}
    numbers = {name: _number(getattr(concept, name)) for name in NUMBERS}
    best = layers.index(concept.best_layer) if concept.best_layer in layers else -1
    verdicts = {"found": concept.found, "used": is_used(concept), "best": best}
    return {"concept": slug(concept.name), "layers": layers, **curves, **numbers, **verdicts}


def stacked(rows: Sequence[dict[str, Any]], provenance: Provenance) -> Scores | None:
    """The rows of all concepts as one table; None for no rows, or rows whose layers differ."""
    if len({row["layers"] for row in rows}) != 1:
        return None
    columns: dict[str, Any] = {name: (("concept", "layer"), np.stack([row[name] for row in rows])) for name in CURVES}
    columns |= {
        name: ("concept", np.array([row[name] for row in rows])) for name in (*NUMBERS, "found", "used", "best")
    }
    coords = {"concept": [row["concept"] for row in rows], "layer": list(rows[0]["layers"])}
    return Scores(xr.Dataset(columns, coords=coords), provenance)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
