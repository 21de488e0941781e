"""One chart function per kind of result; each returns a `Chart`, a Vega-Lite specification that draws itself anywhere."""

from conceptlab.plot.chart import Chart
from conceptlab.plot.choose import chart_of
from conceptlab.plot.circuit import circuit_graph
from conceptlab.plot.depth import depth_curve
from conceptlab.plot.depth_map import depth_map
from conceptlab.plot.effects import effect_chart
from conceptlab.plot.geometry import cosine_map
from conceptlab.plot.heads import head_map
from conceptlab.plot.neurons import neuron_ranking

__all__ = [
    "Chart",
    "chart_of",
    "circuit_graph",
    "cosine_map",
    "depth_curve",
    "depth_map",
    "effect_chart",
    "head_map",
    "neuron_ranking",
]
