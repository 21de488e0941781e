"""Which chart belongs to a result, told by what the result is and by its axes."""

from collections.abc import Callable
from typing import Any

from conceptlab.plot.chart import Chart
from conceptlab.plot.circuit import circuit_graph
from conceptlab.plot.depth import depth_curve
from conceptlab.plot.depth_conditions import depth_conditions
from conceptlab.plot.effects import effect_chart
from conceptlab.plot.faithfulness import faithfulness_chart
from conceptlab.plot.geometry import cosine_map
from conceptlab.plot.head_atlas import head_atlas_map
from conceptlab.plot.heads import head_map
from conceptlab.plot.needles import needle_map
from conceptlab.plot.neurons import neuron_ranking
from conceptlab.plot.patching import patching_map
from conceptlab.results import Circuit, Scores, Units

BY_AXES: dict[frozenset[str], Callable[[Any], Chart]] = {
    frozenset({"layer"}): depth_curve,
    frozenset({"concept", "condition", "layer"}): depth_conditions,
    frozenset({"intervention", "readout"}): effect_chart,
    frozenset({"concept", "concept_other"}): cosine_map,
    frozenset({"layer", "position"}): patching_map,
    frozenset({"layer", "head"}): patching_map,
    frozenset({"layer", "span"}): patching_map,
    frozenset({"receiver", "sender"}): patching_map,
    frozenset({"order", "size"}): faithfulness_chart,
    frozenset({"role", "layer", "head"}): head_atlas_map,
    frozenset({"length", "depth"}): needle_map,
}


def chart_of(result: Scores | Units | Circuit) -> Chart | None:
    """The chart of a result, or None for a result that has no chart of its own."""
    if isinstance(result, Circuit):
        return circuit_graph(result)
    if isinstance(result, Units):
        return head_map(result) if result.kind == "head" else neuron_ranking(result)
    draw = BY_AXES.get(frozenset(str(d) for d in result.data["score"].dims))
    return draw(result) if draw is not None else None
