"""Charts of the lenses: what every layer would say at every position, how a target comes up layer by layer, what tokens bring."""

import json
from typing import Any

import numpy as np

from conceptlab.plot.channels import Spec, category, layer_axis, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, number, rows_of
from conceptlab.plot.theme import LIGHT
from conceptlab.results import Scores

GREY = LIGHT[1]
LEGEND = {"orient": "top", "direction": "horizontal", "gradientLength": 160, "gradientThickness": 8, "tickCount": 4}
READINGS = {
    "rank": ("rank", "rank_control", "rank of the target (1: first choice)"),
    "score": ("score", "control", "log-probability of the target, nats"),
}


def lens_map(lens: Scores, *, text: int = 0, name: str = "") -> Chart:
    """Layers x positions of one text of a logit or tuned lens: the first choice in each cell, coloured by its probability.

    Cells from the layer on at which the first choice stays are outlined.
    """
    data = lens.data
    tokens = np.flatnonzero(data["row"].values == text)
    labels = [str(v) for v in data["layer"].values]
    rows: list[Row] = []
    for t in tokens:
        for at, layer in enumerate(labels):
            rows.append(
                {
                    "column": f"{data['position'].values[t]}",
                    "input": _token(data["input"].values[t]),
                    "layer": layer,
                    "token": _token(data["top_text"].values[at, t, 0]),
                    "probability": number(data["top_prob"].values[at, t, 0]),
                    "entropy": number(data["entropy"].values[at, t]),
                    "rank of the input": number(data["input_rank"].values[at, t]),
                    "stays": bool(at >= data["commit"].values[t]),
                }
            )
    inputs = {str(row["column"]): row["input"] for row in rows}
    words = f"{json.dumps(inputs)}[datum.value]"
    x = category(
        "column", title="token read", axis={"labelExpr": words, "labelAngle": -35, "orient": "bottom", **_BARE}
    )
    y = {**category("layer", title="layer", axis=_BARE), "sort": labels[::-1]}
    numbers = {"probability": "probability", "entropy": "entropy, nats", "rank of the input": "rank of the token read"}
    tip = tooltip(numbers, {"token": "first choice", "input": "token read", "layer": "layer"}, rows)
    colour = quantity(
        "probability", scale={"domain": [0, 1], "interpolate": "rgb"}, legend={**LEGEND, "title": "probability"}
    )
    pale = {"condition": {"test": "datum.probability > 0.55", "value": "white"}, "value": "#1d2329"}
    cell = {"type": "rect", "cornerRadius": 2}
    layers = [
        {"mark": {**cell, "style": "edge", "strokeWidth": 1.5}, "encoding": {"color": colour, "tooltip": tip}},
        {"transform": [{"filter": "datum.stays"}],
         "mark": {**cell, "style": "outline", "fillOpacity": 0, "strokeWidth": 1.2}, "encoding": {"tooltip": tip}},
        {"mark": {"type": "text", "fontSize": 11, "tooltip": None}, "encoding": {"text": {"field": "token"}, "color": pale}},
    ]  # fmt: skip
    says = (
        "The first choice of every layer at every token, coloured by its probability; outlined from where on it stays."
    )
    body = {
        "width": max(320, 64 * len(tokens)),
        "height": 24 * len(labels),
        "encoding": {"x": x, "y": y},
        "layer": layers,
    }
    return Chart(
        f"{visible(name)}: what each layer would say" if name else "What each layer would say", says, body, tuple(rows)
    )


_BARE = {"ticks": False, "domain": False, "labelOverlap": False, "labelLimit": 90}


def _token(text: Any) -> str:
    """A token as it can be seen: spaces as an open box."""
    return visible(str(text).replace(" ", "␣"), 9)


def _by_target(rows: list[Row]) -> Spec:
    """A colour a target; the palette's grey, which stands for controls, is passed over."""
    names = list(dict.fromkeys(str(row["target"]) for row in rows))
    legend = {"orient": "top", "direction": "horizontal", "values": names}
    return category("target", title=None, legend=legend, scale={"domain": [*names[:1], "", *names[1:]]})


def lens_curve(lens: Scores, *, reading: str = "rank", name: str = "") -> Chart:
    """Mean rank (or log-probability: "score") of the targets by layer, beside random tokens read through the same lens (grey)."""
    column, control, title = READINGS[reading]
    rows = rows_of(lens.data[[column, control]], (column, control))
    labels = [str(v) for v in lens["layer"].values]
    for row in rows:
        row |= {"at": labels.index(str(row["layer"])), "value": row[column], "beside": row[control]}
    y: Spec = {"title": title, "scale": {"zero": False}}
    if reading == "rank":
        ticks = [m * 10**e for e in range(7) for m in (1, 2, 5)]
        y |= {"scale": {"type": "log", "reverse": True, "nice": False}, "axis": {"format": "~s", "values": ticks}}
    tip = tooltip({"value": title, "beside": "random tokens"}, {"target": "target", "layer": "layer"}, rows)
    several = len({row["target"] for row in rows}) > 1
    colour = {"color": _by_target(rows)} if several else {}
    style = {} if several else {"style": "measured"}
    line, measured = {"type": "line"}, {"y": quantity("value", **y), **colour}
    beside = {"y": quantity("beside", **y), "detail": {"field": "target"}}
    layers: list[Spec] = [
        {"mark": {**line, "style": "null", "strokeDash": [4, 3]}, "encoding": beside},
        {"mark": {**line, **style, "strokeWidth": 2.4}, "encoding": measured},
        {"mark": {"type": "point", "filled": True, **style, "size": 60, "opacity": 1}, "encoding": {**measured, "tooltip": tip}},
    ]  # fmt: skip
    says = f"{title[0].upper()}{title[1:]} by layer, mean over the texts, beside random tokens in its place (grey, dashed)."
    body = {"width": 600, "height": 260, "encoding": {"x": layer_axis(labels, pad=0.35)}, "layer": layers}
    return Chart(f"{visible(name)}: by layer" if name else "How the target comes up", says, body, tuple(rows))


def span_chart(token_lens: Scores, *, name: str = "") -> Chart:
    """What attention brings from each span to each target by layer, one panel a span, beside permuted values (grey, dashed)."""
    rows = rows_of(token_lens.data[["score", "low", "high", "control"]], ("score", "low", "high", "control"))
    layers = [str(v) for v in token_lens["layer"].values]
    for row in rows:
        row |= {"at": layers.index(str(row["layer"])), "span": visible(str(row["span"]), 40)}
    tip = tooltip(
        {"score": "logits", "low": "95 % interval from", "high": "to", "control": "values permuted"},
        {"span": "from", "target": "to", "layer": "layer"},
        rows,
    )
    y = {"title": "logits"}
    panel = {
        "width": 230,
        "height": 150,
        "encoding": {"x": layer_axis(layers, pad=0.35), "color": _by_target(rows)},
        "layer": [
            {"mark": {"type": "rule", "style": "note-rule", "opacity": 0.5},
             "encoding": {"y": {"datum": 0, "title": "logits"}, "color": {}, "x": {}}},
            {"mark": {"type": "line", "style": "null", "strokeDash": [4, 3]},
             "encoding": {"y": quantity("control", **y), "detail": {"field": "target"}, "color": {"value": GREY}}},
            {"mark": {"type": "line", "strokeWidth": 2.2}, "encoding": {"y": quantity("score", **y)}},
            {"mark": {"type": "point", "filled": True, "size": 50, "opacity": 1},
             "encoding": {"y": quantity("score", **y), "tooltip": tip}},
        ],
    }  # fmt: skip
    facet = {"field": "span", "type": "nominal", "sort": list(dict.fromkeys(r["span"] for r in rows)), "title": None,
             "header": {"title": None, "labelAnchor": "start"}}  # fmt: skip
    says = (
        "What the attention of the last token brings from each set of tokens, in logits of each target, by layer; grey and dashed: "
        "the same with the values permuted over positions."
    )
    body = {"facet": facet, "columns": 3, "spacing": 24, "spec": panel}
    return Chart(f"{visible(name)}: what tokens bring" if name else "What tokens bring", says, body, tuple(rows))
