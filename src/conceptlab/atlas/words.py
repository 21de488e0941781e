"""What the atlas found about a concept, in sentences, each number beside its control."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.atlas.table import number
from conceptlab.plot.naming import metric_name, visible

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import Atlas, ConceptMap


def lede(atlas: "Atlas") -> str:
    """One paragraph over the whole atlas."""
    found = [c for c in atlas.concepts if c.found]
    used = sum(map(is_used, found)) if any(c.effect is not None for c in found) else None
    return counted(str(atlas.model.get("name", "")), len(atlas.concepts), len(found), used)


def counted(model: str, total: int, found: int, used: int | None) -> str:
    """How many concepts can be read and of how many a change does more than random ones (`used`, None: not measured)."""
    one = "concept" if total == 1 else "concepts"
    first = f"{found:,} of {total:,} {one} can be read from {visible(model, 80)} better than from shuffled labels."
    if used is None:
        return first
    return f"{first} For {used:,} of them, changing the model's own direction does more than random changes of the same size."


def findings(concept: "ConceptMap", n_concepts: int) -> dict[str, str]:
    """What was found and how sure it is, a word -> its sentences: reading, depth, parts and use, as far as measured."""
    said = {
        "Reading": _reading(concept, n_concepts),
        "Depth": _depth(concept),
        "Parts": _units(concept),
        "Use": _use(concept),
    }
    return {word: text for word, text in said.items() if text}


def is_used(concept: "ConceptMap") -> bool:
    """Whether the headline effect exceeds its random controls: p at most 0.05, or without a p an interval above them."""
    cell = headline(concept)
    if cell is not None and math.isfinite(cell["p"]):
        return cell["p"] <= 0.05
    if concept.effect_interval is None or concept.effect_control is None:
        return False
    return concept.effect_interval[0] > concept.effect_control


def headline(concept: "ConceptMap") -> dict[str, Any] | None:
    """The cell of the effects table that `effect` was taken from: its labels and its p; None where there is no such cell."""
    if concept.effects is None or concept.effect is None or "p" not in concept.effects.data:
        return None
    data = concept.effects.data.transpose("intervention", "readout")
    at = np.argwhere(np.isclose(data["score"].values, concept.effect, rtol=1e-9, atol=1e-12))
    if not len(at):
        return None
    i, j = at[0]
    labels = {"intervention": str(data["intervention"].values[i]), "readout": str(data["readout"].values[j])}
    return {**labels, "p": float(data["p"].values[i, j])}


def _reading(c: "ConceptMap", n_concepts: int) -> str:
    value = (
        f"{metric_name(c.metric)} {number(c.score)} ({number(c.score_interval[0])} to {number(c.score_interval[1])})"
    )
    sure = f"p = {number(c.p)}, q = {number(c.q)} over {n_concepts} concept{'s' if n_concepts != 1 else ''}"
    layer = "the embedding" if c.best_layer == "embed" else f"layer {visible(c.best_layer, 12)}"
    beside = f"the same procedure on shuffled labels {number(c.control)} ({sure})."
    if c.found:
        return f"At {layer} a linear probe reaches {value}; {beside}"
    return f"Not found. The best layer, {layer}, gives {value}, which is not enough beside {beside}"


def _depth(c: "ConceptMap") -> str:
    jump, settled = (
        None if v is None or not math.isfinite(v) else f"{100 * v:.0f}\u00a0%" for v in (c.jump, c.settled)
    )
    if not c.found or (jump is None and settled is None):
        return ""
    if jump is None:
        return f"The curve has no jump; it has settled by {settled} of the depth."
    return f"It jumps at {jump} of the depth" + (
        f" and has settled by {settled}." if settled else " and never settles."
    )


def _units(c: "ConceptMap") -> str:
    counts = []
    for units, noun in ((c.heads, "head"), (c.neurons, "neuron")):
        if units is not None:
            n = int((units.table["q"].values <= 0.05).sum())
            counts.append(f"{n if n else 'no'} {noun}{'' if n == 1 else 's'}")
    return f"{' and '.join(counts).capitalize()} carry it at q ≤ 0.05 over all that were searched." if counts else ""


def _use(c: "ConceptMap") -> str:
    if c.effect is None:
        return "Not measured."
    cell = headline(c)
    change = f"“{visible(cell['intervention'], 40)}”" if cell else "Changing the direction"
    between = (
        "" if c.effect_interval is None else f" ({number(c.effect_interval[0])} to {number(c.effect_interval[1])})"
    )
    chance = f" (p = {number(cell['p'])})" if cell and math.isfinite(cell["p"]) else ""
    verdict = "The model uses it" if is_used(c) else "No sign that the model uses it"
    return (
        f"{verdict}: {change} has an effect of {number(c.effect)}{between}, random changes of the same size "
        f"{number(c.effect_control)}{chance}. Unit: {visible(c.effect_kind, 80)}."
    )
