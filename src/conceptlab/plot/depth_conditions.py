"""Depth curves of several concepts together: the model as it is, with noised input and rounded weights, beside shuffled labels."""

import numpy as np
import xarray as xr

from conceptlab.plot.channels import Spec, layer_axis, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import metric_name, visible
from conceptlab.plot.rows import Row, number, rows_of
from conceptlab.results import Scores

COLUMNS = {
    "score": "score", "low": "95 % interval from", "high": "to", "control": "shuffled labels, mean",
    "control_low": "shuffled labels, 2.5 %", "control_high": "95 %", "place": "readable from layer number",
}  # fmt: skip
PLAIN = "as is"
# in the order of the theme's colours: measured, shuffled labels, control task, noised input, quantised weights
DASHES = {PLAIN: [1, 0], "bf16": [1, 3], "int4": [4, 3], "noised": [7, 3], "int8": [2, 2]}


def depth_conditions(depths: Scores, *, name: str = "") -> Chart:
    """One panel a concept: its curve in every condition, the band of shuffled labels, and a dot where it becomes readable.

    `depths` has dims concept x condition x layer, as `measure/probing/concept_depth.py` makes it.
    """
    data = depths.data
    layers, rows = [str(v) for v in data["layer"].values], _rows(data)
    seen = set(map(str, data["condition"].values))
    conditions = [c for c in ("as is", "noised", "bf16", "int8", "int4") if c in seen]
    y = {"title": "held-out score", "scale": {"zero": False, "nice": True}}
    layered = [*_band(), _lines(conditions), _dots(), _hover(rows)]
    for layer in layered:
        layer["encoding"]["y"] |= y
    panel: Spec = {"width": 270, "height": 190, "encoding": {"x": layer_axis(layers, pad=0.35)}, "layer": layered}
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    header = {"title": None, "orient": "top", "labelAnchor": "start", "labelPadding": 4, "labelLimit": 270}
    facet = {"field": "panel", "type": "nominal", "sort": panels, "header": header, "title": None}
    body = {"facet": facet, "columns": min(3, len(panels)), "spacing": 26, "spec": panel}
    says = (
        f"Held-out score of a linear probe by layer, mean of {data.sizes.get('seed', 1)} seeds, beside the same procedure on "
        "shuffled labels (grey band: from their 2.5 % to their 95 % point). A dot is where a curve becomes readable (mean of "
        "the seeds, where at least half have a place): above the shuffled labels and half way to the plain peak."
    )
    return Chart(f"{visible(name)}: depth of concepts" if name else "Depth of concepts", says, body, rows)


def _rows(data: xr.Dataset) -> tuple[Row, ...]:
    """One row a concept, condition and layer; that of the first layer also holds the dot."""
    names = [str(v) for v in data["concept"].values]
    metrics = dict(zip(names, data.attrs.get("metrics", ()), strict=False))
    layers = [str(v) for v in data["layer"].values]
    flat = data[[c for c in COLUMNS if c in data]].drop_dims("seed", errors="ignore")
    rows = rows_of(flat.transpose("concept", "condition", "layer"), COLUMNS)
    for row in rows:
        concept = str(row["concept"])
        known = f" ({metric_name(metrics[concept])})" if concept in metrics else ""
        row |= {
            "at": layers.index(str(row["layer"])),
            "panel": visible(concept, 40) + known,
            "place": None,
            "height": None,
        }
        if row["at"] == 0 and "depth" in data:
            row |= _dot(data.sel(concept=row["concept"], condition=row["condition"]))
    return tuple(rows)


def _dot(curve: xr.Dataset) -> Row:
    """The mean place over seeds at which one curve is readable, and its height there; nothing where most seeds have none."""
    places = curve["depth"].values
    if np.isfinite(places).mean() < 0.5:
        return {}
    at = float(np.nanmean(places))
    return {
        "place": number(at),
        "height": number(float(np.interp(at, np.arange(curve.sizes["layer"]), curve["score"].values))),
    }


def _band() -> list[Spec]:
    mark = {"type": "area", "style": "null", "opacity": 0.25}
    encoding = {"y": quantity("control_low"), "y2": {"field": "control_high"}}
    return [{"transform": [{"filter": f"datum.condition == '{PLAIN}'"}], "mark": mark, "encoding": encoding}]


def _lines(conditions: list[str]) -> Spec:
    legend = {"title": None, "orient": "top", "direction": "horizontal", "values": conditions, "columns": 5}
    domain = {"domain": list(DASHES)}
    return {
        "mark": {"type": "line", "interpolate": "monotone"},
        "encoding": {
            "y": quantity("score"),
            "color": {"field": "condition", "type": "nominal", "scale": {**domain, "range": "category"}, "legend": legend},
            "strokeDash": {"field": "condition", "type": "nominal", "scale": {**domain, "range": list(DASHES.values())},
                           "legend": legend},
            "strokeWidth": {"condition": {"test": f"datum.condition == '{PLAIN}'", "value": 2.8}, "value": 1.5},
        },
    }  # fmt: skip


def _dots() -> Spec:
    colour = {
        "field": "condition",
        "type": "nominal",
        "scale": {"domain": list(DASHES), "range": "category"},
        "legend": None,
    }
    return {
        "transform": [{"filter": "isValid(datum.place)"}],
        "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1, "style": "edge", "strokeWidth": 1},
        "encoding": {"x": quantity("place"), "y": quantity("height"), "fill": colour},
    }


def _hover(rows: tuple[Row, ...]) -> Spec:
    """Invisible points that tell every number under the pointer."""
    told = tooltip(COLUMNS, {"panel": "concept", "condition": "condition", "layer": "layer"}, rows)
    mark = {"type": "point", "filled": True, "size": 90, "opacity": 0.001}
    return {"mark": mark, "encoding": {"y": quantity("score"), "tooltip": told}}
