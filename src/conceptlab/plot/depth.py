"""The depth curve: how well a concept can be read at each layer, beside what the same procedure reads from nothing."""

import json
import math

import numpy as np
import xarray as xr

from conceptlab.plot.channels import Spec, layer_axis, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import metric_name, visible
from conceptlab.plot.rows import Row, number, rows_of
from conceptlab.plot.theme import ROLES
from conceptlab.results import Scores

LINES = dict(zip(("score", "control", "control_task", "noised", "quantised"), ROLES, strict=True))
DASHES = [[1, 0], [4, 3], [1, 3], [7, 3], [2, 2]]
COLUMNS = {
    "score": "score", "low": "95 % interval from", "high": "to", "control": "shuffled labels, mean",
    "control_high": "shuffled labels, 95 %", "control_task": "control task", "selectivity": "selectivity",
    "noised": "noised input", "quantised": "quantised weights", "compression": "compression (MDL)",
    "compression_control": "compression, shuffled",
}  # fmt: skip


def depth_curve(
    depth: Scores,
    *,
    name: str = "",
    metric: str = "accuracy",
    best_layer: str | None = None,
    jump: float | None = None,
    settled: float | None = None,
) -> Chart:
    """The score by layer with its interval, the null's mean and 95 % band, and the control lines that were measured.

    `depth` has dim `layer`; `jump` and `settled` are fractions of the depth.
    """
    rows = [{"at": i, **row} for i, row in enumerate(rows_of(depth.data, (*COLUMNS, "control_low")))]
    labels = [str(v) for v in depth["layer"].values]
    marks = _marks(depth.data, labels, {"jump": jump, "settled": settled}, best_layer)
    scale = {"domain": _domain(depth.data, metric), "nice": False, "zero": False, "clamp": True}
    present = [column for column in LINES if column in rows[0]]
    layers = [*_bands(rows), _lines(present), *_marked(), _hover(rows)]
    for layer in layers:
        if "y" in layer["encoding"]:
            layer["encoding"]["y"] |= {"scale": scale, "title": metric_name(metric)}
    what = metric_name(metric)
    says = (
        f"{what[0].upper()}{what[1:]} of a linear probe (blue, with its 95 % interval) beside the same procedure on shuffled "
        "labels (grey: mean, and the band up to their 95 % point)."
    )
    body = {"width": 600, "height": 250, "encoding": {"x": layer_axis(labels, pad=0.35)}, "layer": layers}
    title = f"{visible(name)}: readable by layer" if name else "Readable by layer"
    return Chart(title, says, body, tuple(rows), {"marks": tuple(marks)})


def _domain(data: xr.Dataset, metric: str) -> list[float]:
    values = np.concatenate(
        [data[c].values.astype(float).ravel() for c in (*LINES, "low", "high", "control_low") if c in data]
    )
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 1.0])
    low, high = math.floor((values.min() - 0.02) * 20) / 20, math.ceil((values.max() + 0.01) * 20) / 20
    return [max(low, -1.0 if metric == "r" else 0.0), min(high, 1.0)]


def _bands(rows: list[Row]) -> list[Spec]:
    bottom = "control_low" if "control_low" in rows[0] else "control"
    bands = ((bottom, "control_high", "null", 0.2), ("low", "high", "measured", 0.16))
    return [
        {
            "mark": {"type": "area", "style": style, "opacity": opacity},
            "encoding": {"y": quantity(low), "y2": {"field": high}},
        }
        for low, high, style, opacity in bands
        if low in rows[0] and high in rows[0]
    ]


def _lines(present: list[str]) -> Spec:
    words = f"{json.dumps(LINES)}[datum.label]"
    legend = {
        "title": None,
        "orient": "top",
        "direction": "horizontal",
        "values": present,
        "labelExpr": words,
        "columns": 3,
    }
    return {
        "transform": [{"fold": present, "as": ["column", "value"]}],
        "mark": {"type": "line", "interpolate": "monotone"},
        "encoding": {
            "y": quantity("value"),
            "color": {"field": "column", "type": "nominal", "scale": {"domain": list(LINES), "range": "category"},
                      "legend": legend},
            "strokeDash": {"field": "column", "type": "nominal", "scale": {"domain": list(LINES), "range": DASHES},
                           "legend": legend},
            "strokeWidth": {"condition": {"test": "datum.column == 'score'", "value": 2.6}, "value": 1.5},
        },
    }  # fmt: skip


def _marks(data: xr.Dataset, labels: list[str], points: dict[str, float | None], best: str | None) -> list[Row]:
    span = len(labels) - 1
    marks: list[Row] = [
        {"at": number(fraction * span), "what": what, "fraction": number(fraction), "score": None}
        for what, fraction in points.items()
        if fraction is not None and math.isfinite(fraction)
    ]
    if best in labels:
        at = labels.index(best)
        marks.append({"at": at, "what": "best layer", "fraction": None, "score": number(data["score"].values[at])})
    return marks


def _marked() -> list[Spec]:
    points = {"data": {"name": "marks"}, "transform": [{"filter": "isValid(datum.fraction)"}]}
    ring = {"type": "point", "filled": True, "style": ["measured", "edge"], "size": 120, "strokeWidth": 2, "opacity": 1}
    said = {"type": "text", "style": "note", "baseline": "bottom", "dy": -5, "y": "height"}
    left, right = {**said, "align": "right", "dx": -5}, {**said, "align": "left", "dx": 5}
    dashed = {"type": "rule", "style": "note-rule", "strokeDash": [2, 3], "opacity": 0.7}
    return [
        {**points, "mark": dashed, "encoding": {}},
        {**_only("jump"), "mark": left, "encoding": {"text": {"field": "what"}}},
        {**_only("settled"), "mark": right, "encoding": {"text": {"field": "what"}}},
        {**_only("best layer"), "mark": ring, "encoding": {"y": quantity("score")}},
    ]


def _only(what: str) -> Spec:
    return {"data": {"name": "marks"}, "transform": [{"filter": {"field": "what", "equal": what}}]}


def _hover(rows: list[Row]) -> Spec:
    """An invisible column a layer that lights up under the pointer and tells every number of the layer."""
    over = {"type": "point", "on": "pointerover", "clear": "pointerout", "fields": ["at"]}
    return {
        "transform": [
            {"calculate": f"datum.at {sign} 0.5", "as": side} for sign, side in (("-", "left"), ("+", "right"))
        ],
        "params": [{"name": "over", "select": over}],
        "mark": {"type": "rect", "style": "null", "clip": True},
        "encoding": {
            "x": quantity("left"),
            "x2": {"field": "right"},
            "opacity": {"condition": {"param": "over", "empty": False, "value": 0.12}, "value": 0.001},
            "tooltip": tooltip(COLUMNS, {"layer": "layer"}, rows),
        },
    }
