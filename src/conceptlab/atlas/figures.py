"""Which charts an atlas has: those of the whole and those of each concept, by name."""

import math
from typing import TYPE_CHECKING

from conceptlab.atlas.table import reading_words
from conceptlab.plot import Chart, cosine_map, depth_curve, depth_map, effect_chart, head_map, neuron_ranking

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import Atlas, ConceptMap


def atlas_figures(atlas: "Atlas") -> dict[str, Chart]:
    """The charts over all concepts: `depth_map` and, from two concepts on, `cosines`."""
    found = [c.name for c in atlas.concepts if c.found]
    ordered = {c.name: c.depth for c in sorted(atlas.concepts, key=_by_depth)}
    charts = {"depth_map": depth_map(ordered, found=found)} if ordered else {}
    if atlas.geometry is not None and atlas.geometry.data.sizes["concept"] > 1:
        charts["cosines"] = cosine_map(atlas.geometry)
    return charts


def concept_figures(concept: "ConceptMap") -> dict[str, Chart]:
    """The charts of one concept: `depth`, and `effects`, `heads`, `neurons` where they were measured."""
    c, name = concept, concept.name
    points = {"best_layer": c.best_layer, "jump": c.jump, "settled": c.settled}
    charts = {"depth": depth_curve(c.depth, name=name, metric=c.metric, **points)}
    if c.effects is not None and c.effects.data["score"].notnull().any():
        words = {str(label): reading_words(str(label)) for label in c.effects["readout"].values}
        charts["effects"] = effect_chart(c.effects, name=name, readouts=words)
    if c.heads is not None and c.heads.table.sizes.get("unit"):
        charts["heads"] = head_map(c.heads, name=name)
    if c.neurons is not None and c.neurons.table.sizes.get("unit"):
        charts["neurons"] = neuron_ranking(c.neurons, name=name)
    return charts


def _by_depth(concept: "ConceptMap") -> tuple[bool, float]:
    """Found first, early ones first."""
    at = next((v for v in (concept.settled, concept.jump) if v is not None and math.isfinite(v)), math.inf)
    return not concept.found, at
