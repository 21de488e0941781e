"""The faithfulness curve: how much of a behaviour circuits of growing size carry, over random circuits of equal size."""

from conceptlab.plot.channels import Spec, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, rows_of
from conceptlab.results import Scores

COLUMNS = {
    "size": "share of all edges",
    "n_edges": "edges",
    "n_connected": "of them on a way to the logits",
    "score": "faithfulness",
    "low": "95 % interval from",
    "high": "to",
    "control": "random circuits, mean",
    "control_low": "random circuits from",
    "control_high": "to",
}
ORDERS = {
    "magnitude": "largest scores of either sign (CMD {cmd:.2f}, random {cmd_random:.2f})",
    "signed": "largest positive scores (CPR {cpr:.2f}, random {cpr_random:.2f})",
}
AREAS = ("cpr", "cpr_random", "cmd", "cmd_random")


def faithfulness_chart(curve: Scores, *, name: str = "") -> Chart:
    """One panel an order: faithfulness by size with its interval, the mean of random circuits and the band of their draws.

    `curve` has dims order x size, as `measure/circuits/faithfulness.py` makes it; the dotted line is the whole model.
    """
    rows = _rows(curve)
    x = quantity("size", title="share of all edges (log scale)", scale={"type": "log", "nice": False})
    x["axis"] = {"format": "~%", "tickCount": 5, "grid": False}
    panel = {"width": 280, "height": 220, "encoding": {"x": x}, "layer": _layers(rows)}
    orders = list(dict.fromkeys(row["panel"] for row in rows))
    header = {"title": None, "orient": "top", "labelAnchor": "start", "labelPadding": 4, "labelLimit": 300}
    facet = {"field": "panel", "type": "nominal", "sort": orders, "header": header, "title": None}
    body = {"facet": facet, "columns": 2, "spacing": 26, "spec": panel}
    says = (
        "Share of the behaviour that a circuit carries when every other edge is corrupted (blue, with its 95 % interval), by the "
        "circuit's size, beside random circuits with as many edges into each layer (grey: mean, and the range of 95 % of them)."
    )
    return Chart(
        f"{visible(name)}: how many edges does it need?" if name else "How many edges does it need?", says, body, rows
    )


def _rows(curve: Scores) -> tuple[Row, ...]:
    areas = {area: float(curve.data.attrs.get(area, float("nan"))) for area in AREAS}
    rows = [row for row in rows_of(curve.data, [c for c in COLUMNS if c != "size"]) if row.get("score") is not None]
    for row in rows:
        row["panel"] = ORDERS[row["order"]].format(**areas) if row["order"] in ORDERS else str(row["order"])
    return tuple(rows)


def _layers(rows: tuple[Row, ...]) -> list[Spec]:
    """Bands below, then the random mean, the line at 1, and the curve."""
    present = rows[0] if rows else {}
    tip = tooltip(COLUMNS, {}, rows)
    layers: list[Spec] = []
    for low, high, style, opacity in (("control_low", "control_high", "null", 0.25), ("low", "high", "measured", 0.16)):
        if low in present and high in present:
            mark = {"type": "area", "style": style, "opacity": opacity}
            layers.append({"mark": mark, "encoding": {"y": quantity(low), "y2": {"field": high}}})
    across = {"x": {"value": 0}, "x2": {"value": "width"}, "y": {"datum": 1}}
    whole = {"mark": {"type": "rule", "style": "note-rule", "strokeDash": [2, 3]}, "encoding": across}
    layers.append(whole)
    if "control" in present:
        layers.append(
            {"mark": {"type": "line", "style": "null", "strokeWidth": 1.5}, "encoding": {"y": quantity("control")}}
        )
    y = quantity("score", title="faithfulness", axis={"format": "~%", "tickCount": 5})
    line = {"type": "line", "style": "measured", "strokeWidth": 2.4}
    point = {
        "type": "point",
        "filled": True,
        "style": ["measured", "edge"],
        "size": 60,
        "opacity": 1,
        "strokeWidth": 1.2,
    }
    return [*layers, {"mark": line, "encoding": {"y": y}}, {"mark": point, "encoding": {"y": y, "tooltip": tip}}]
