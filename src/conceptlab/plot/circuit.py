"""The picture of a circuit: a layered graph from embed at the bottom to logits at the top, every edge with its score."""

from collections.abc import Mapping

import numpy as np

from conceptlab.plot.channels import Spec, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.circuit_layout import HEIGHT, PORTS, Drawing, layout
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, number
from conceptlab.results import Circuit
from conceptlab.results.circuit import POSITIVE

MOST = 150  # edges that can be told apart
COLUMNS = {
    "weight": "score", "low": "95 % interval from", "high": "to", "exact": "exact effect", "control": "under the null",
    "p": "p", "q": "q over all edges searched",
}  # fmt: skip
# the roles of the theme's colours that are borrowed: positive is drawn like what was measured
SIGNS = ("positive", " ", "negative")
TOUCHED = (
    "!over.node || (!isValid(over.node[0]) && !isValid(over.rank[0])) || over.rank[0] === datum.rank"
    " || over.node[0] === datum.source || over.node[0] === datum.enters"
)


def circuit_graph(circuit: Circuit, *, name: str = "", most: int = MOST, q_max: float = 0.05) -> Chart:
    """The circuit as a layered graph; of more than `most` edges the strongest by |weight|.

    Edges whose q is above `q_max` are dashed. Hovering a node lights up its edges, a tooltip gives each edge's numbers; `rank` 1 in
    the rows is the strongest. Drawing 150 edges takes 0.1 s, the picture of them 1 s.
    """
    # the strongest are drawn last, on top
    drawn = circuit.top(most).select(slice(None, None, -1))  # type: ignore[arg-type]
    drawing = layout(drawn)
    rows = _edges(drawn, drawing, q_max)
    more = {
        "points": _points(rows, drawing), "chords": _chords(rows, drawing), "nodes": _nodes(drawing), "ports": _ports(drawing),
        "served": _served(drawing), "layers": _layers(drawing),
    }  # fmt: skip
    place = {
        axis: quantity(axis, axis=None, scale={"domain": [0, round(size)], "nice": False, "zero": False})
        for axis, size in (("x", drawing.width), ("y", drawing.height))
    }
    body = {
        "width": round(drawing.width),
        "height": round(drawing.height),
        "encoding": place,
        "layer": [*_bands(), _lines(rows), _hits(rows), *_boxes()],
        "resolve": {"legend": {"color": "independent"}},
    }
    title = f"{visible(name)}: circuit" if name else "Circuit"
    return Chart(title, _says(circuit, drawn, rows, q_max), body, tuple(rows), more)


def _says(circuit: Circuit, drawn: Circuit, rows: list[Row], q_max: float) -> str:
    metric = visible(circuit.metric or "the metric")
    said = [
        f"{len(circuit):,} of {circuit.shape.n_edges:,} edges, {len(circuit.nodes):,} nodes; the wider, the larger the score."
    ]
    if circuit.sign_convention == POSITIVE:
        said.append(f"Corrupting a blue edge lowers {metric}, corrupting an orange one raises it.")
    else:
        said.append(f"Blue is positive, orange negative ({visible(circuit.sign_convention)}).")
    left = len(circuit) - len(drawn)
    if left:
        said.append(f"The {len(drawn)} strongest are drawn, {left:,} {'is' if left == 1 else 'are'} not.")
    if any(row["dashed"] for row in rows):
        said.append(f"Dashed: q above {q_max:g}, not told from chance.")
    null = np.abs(circuit.control[np.isfinite(circuit.control)])
    said.append(f"Under the null the largest |score| is {null.max():.3g}." if len(null) else "No null was measured.")
    return " ".join(said)


def _edges(drawn: Circuit, drawing: Drawing, q_max: float) -> list[Row]:
    columns = {"weight": drawn.weights, **{c: getattr(drawn, c) for c in ("low", "high", "exact", "control", "p", "q")}}
    columns = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    return [
        {
            "rank": len(drawn) - i,
            "edge": f"{source} → {target}",
            "source": source,
            "target": target,
            **{name: number(float(values[i])) for name, values in columns.items()},
            "sign": "negative" if drawn.weights[i] < 0 else "positive",
            "dashed": bool(drawn.q[i] > q_max),
            "enters": drawing.wires[i].target.name,
        }
        for i, (source, target) in enumerate(drawn.edge_names())
    ]


def _points(rows: list[Row], drawing: Drawing) -> tuple[Row, ...]:
    return tuple(
        {"rank": row["rank"], "step": step, "x": round(x, 1), "y": round(y, 1)}
        for row, wire in zip(rows, drawing.wires, strict=True)
        for step, (x, y) in enumerate(wire.points)
    )


def _chords(rows: list[Row], drawing: Drawing) -> tuple[Row, ...]:
    """Straight pieces between the knots of each edge's cubic B-spline, which lie on it."""
    pieces = []
    for row, wire in zip(rows, drawing.wires, strict=True):
        p = np.array([wire.points[0], *wire.points, wire.points[-1]])
        knots = np.round([p[0], *(p[:-2] + 4 * p[1:-1] + p[2:]) / 6, p[-1]], 1).tolist()
        pieces += [
            {"rank": row["rank"], "x": x, "y": y, "x2": x2, "y2": y2}
            for (x, y), (x2, y2) in zip(knots, knots[1:], strict=False)
        ]
    return tuple(pieces)


def _nodes(drawing: Drawing) -> tuple[Row, ...]:
    return tuple(
        {
            "node": node.name, "kind": node.kind, "x": round(node.x, 1), "y": round(node.y, 1),
            "left": round(node.x - node.width / 2, 1), "right": round(node.x + node.width / 2, 1),
            "bottom": round(node.y - HEIGHT / 2, 1), "top": round(node.y + HEIGHT / 2, 1),
            "label": round(node.y + (3 if node.ports else 0), 1),
        }
        for node in drawing.nodes
    )  # fmt: skip


def _ports(drawing: Drawing) -> tuple[Row, ...]:
    return tuple(
        {"port": port, "x": round(node.x + PORTS[port], 1), "y": round(node.y - HEIGHT / 2 + 6, 1)}
        for node in drawing.nodes
        for port in sorted(node.ports)
    )


def _served(drawing: Drawing) -> tuple[Row, ...]:
    return tuple(
        {"x": round(x, 1), "y": round(y, 1), "x2": round(to_x, 1), "y2": round(to_y, 1)}
        for (x, y), (to_x, to_y) in drawing.served
    )


def _layers(drawing: Drawing) -> tuple[Row, ...]:
    inside = [node for node in drawing.nodes if not node.is_bar]
    rows = []
    for layer in sorted({node.layer for node in inside}):
        y = [node.y for node in inside if node.layer == layer]
        low, high = min(y) - HEIGHT / 2 - 8, max(y) + HEIGHT / 2 + 8
        words = {"layer": f"layer {layer}", "words": 10, "y": min(y)}
        rows.append({**words, "left": 0, "right": round(drawing.width), "bottom": low, "top": high})
    return tuple(rows)


def _bands() -> list[Spec]:
    """A pale band a layer with its name, and the lines from shared keys and values to their heads."""
    layers = {"data": {"name": "layers"}}
    box = {"x": quantity("left"), "x2": {"field": "right"}, "y": quantity("bottom"), "y2": {"field": "top"}}
    name = {"x": quantity("words"), "y": quantity("y"), "text": {"field": "layer"}}
    return [
        {**layers, "mark": {"type": "rect", "style": "null", "fillOpacity": 0.09, "cornerRadius": 6}, "encoding": box},
        {**layers, "mark": {"type": "text", "style": "note", "align": "left", "baseline": "middle"}, "encoding": name},
        {
            "data": {"name": "served"},
            "mark": {"type": "rule", "style": "null", "strokeWidth": 1},
            "encoding": {"x2": {"field": "x2"}, "y2": {"field": "y2"}},
        },
    ]


def _wired(data: str, fields: list[str]) -> Mapping[str, object]:
    return {
        "data": {"name": data},
        "transform": [{"lookup": "rank", "from": {"data": {"name": "rows"}, "key": "rank", "fields": fields}}],
    }


def _lines(rows: list[Row]) -> Spec:
    most = max((abs(row["weight"]) for row in rows), default=1.0) or 1.0
    least = float(f"{most / 4:.1g}")
    top = {"orient": "top", "direction": "horizontal"}
    sizes = {**top, "title": "|score|", "values": [least, 4 * least], "format": ",.3~r"}
    signs = [sign for sign in SIGNS if any(row["sign"] == sign for row in rows)]
    width = {"domain": [0, most], "range": [0.8, 5.5], "nice": False}
    spec = {
        **_wired("points", ["weight", "sign", "dashed", "source", "enters"]),
        "mark": {"type": "line", "interpolate": "basis", "strokeJoin": "round", "aria": False},
        "encoding": {
            "detail": {"field": "rank"},
            "order": {"field": "step", "type": "quantitative"},
            "color": {"field": "sign", "type": "nominal", "scale": {"domain": list(SIGNS), "range": "category"},
                      "legend": {**top, "title": "sign", "values": signs}},
            "strokeWidth": quantity("size", scale=width, legend=sizes),
            "strokeOpacity": {"condition": {"test": TOUCHED, "value": 0.85}, "value": 0.07},
        },
    }  # fmt: skip
    spec["transform"] = [*spec["transform"], {"calculate": "abs(datum.weight)", "as": "size"}]
    if any(row["dashed"] for row in rows):
        spec["encoding"]["strokeDash"] = {"condition": {"test": "datum.dashed", "value": [4, 3]}, "value": [1, 0]}
    return spec


def _hits(rows: list[Row]) -> Spec:
    """What the pointer meets: wide unseen chords along each edge. (A line has its tooltip at its points only.)"""
    fields = [name for name in (*COLUMNS, "edge", "source", "target", "enters") if any(name in row for row in rows[:1])]
    return {
        **_wired("chords", fields),
        "mark": {"type": "rule", "style": "null", "strokeWidth": 9, "strokeOpacity": 0.001, "aria": False},
        "encoding": {"x2": {"field": "x2"}, "y2": {"field": "y2"}, "tooltip": tooltip(COLUMNS, {"edge": "edge"}, rows)},
    }


def _boxes() -> list[Spec]:
    over = {"type": "point", "on": "pointerover", "clear": "pointerout", "fields": ["node", "rank"]}
    data = {"data": {"name": "nodes"}}
    box = {"x": quantity("left"), "x2": {"field": "right"}, "y": quantity("bottom"), "y2": {"field": "top"}}
    tip = [{"field": "node", "type": "nominal", "title": "node"}]
    return [
        {
            **data,
            "params": [{"name": "over", "select": over}],
            "mark": {"type": "rect", "style": "node", "cornerRadius": 5},
            "encoding": {
                **box,
                "strokeWidth": {"condition": {"param": "over", "empty": False, "value": 2.2}, "value": 1},
                "tooltip": tip,
            },
        },
        {
            **data,
            "mark": {"type": "text", "style": "label", "align": "center", "baseline": "middle"},
            "encoding": {"y": quantity("label"), "text": {"field": "node"}, "tooltip": tip},
        },
        {
            "data": {"name": "ports"},
            "mark": {"type": "text", "style": "note", "fontSize": 9, "align": "center", "baseline": "middle"},
            "encoding": {"text": {"field": "port"}},
        },
    ]
