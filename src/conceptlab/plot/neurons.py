"""The neuron ranking: every MLP neuron by its layer and score, the ones that survive the false-discovery rate named."""

from typing import Any

import numpy as np

from conceptlab.plot.channels import Spec, layer_axis, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.heads import LEAST
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, number, rows_of
from conceptlab.results import Units

COLUMNS = {"score": "score", "control": "null, mean", "p": "p", "q": "q over all neurons"}
WIDTH, HEIGHT = 420, 260  # pixels
NAME = (56, 12)  # pixels across and down that a name needs
GOLDEN = 0.6180339887  # spreads consecutive indices evenly inside a layer's strip


def neuron_ranking(
    neurons: Units,
    *,
    name: str = "",
    q_max: float = 0.05,
    labelled: int = 5,
    most: int = 600,
    null_max: float | None = None,
) -> Chart:
    """Layers x score, a point a neuron; the best `labelled` that have q <= `q_max` carry their site, where it can be read.

    More than `most` neurons are thinned: the best third of `most`, and of the rest every k-th by rank. `null_max` is the
    largest score under the null (default: the table's attribute of that name, where a finder left one).
    """
    data = neurons.table
    kept = _kept(data["score"].values, most)
    columns = ("layer", "index", *COLUMNS)  # alone: a finder may keep other axes in its table
    rows = [_row(row, q_max) for row in rows_of(data[list(columns)].isel(unit=kept), columns)]
    n_layers = 1 + int(data["layer"].values.max())
    named = _readable([row for row in rows if row["found"]][:labelled], rows, n_layers)
    for row in rows:
        row["label"] = row["neuron"] if row["neuron"] in named else None
    null_max = data.attrs.get("null_max") if null_max is None else null_max
    x = layer_axis([str(i) for i in range(n_layers)])
    layers = [*_lines(rows, null_max), _points(rows, x), *(_names(x, n_layers) if named else [])]
    thinned = f" Drawn: the best and an even sample, {len(rows):,} in all." if len(rows) < data.sizes["unit"] else ""
    n_found = int((data["q"].values <= q_max).sum())
    n = data.sizes["unit"]
    says = (
        f"One point a neuron. {n_found if n_found else 'None'} of {n:,} {'is' if n_found == 1 else 'are'} blue: q ≤ {q_max:g} "
        f"over all of them. Dashed: the {'largest score under' if null_max is not None else 'mean of'} the null.{thinned}"
    )
    body = {"width": WIDTH, "height": HEIGHT, "layer": layers}
    return Chart(f"{visible(name)}: neurons" if name else "Neurons", says, body, tuple(rows))


def _kept(score: np.ndarray, most: int) -> np.ndarray:
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    if len(order) <= most:
        return order
    best, rest = order[: most // 3], order[most // 3 :]
    return np.concatenate([best, rest[:: -(-len(rest) // (most - len(best)))]])


def _row(row: Row, q_max: float) -> Row:
    del row["unit"]
    index = int(row["index"])
    found = row.get("q") is not None and row["q"] <= q_max
    at = number(row["layer"] + 0.7 * ((index * GOLDEN) % 1 - 0.5), 4)
    return {"neuron": f"L{row['layer']}.N{index}", "at": at, **row, "found": found}


def _readable(best: list[Row], rows: list[Row], n_layers: int) -> set[str]:
    """The neurons among the `best` whose names do not lie on the name of a better one."""
    scores = [row["score"] for row in rows if row.get("score") is not None]
    range_ = max(scores, default=1.0) - min(scores, default=0.0)
    down = HEIGHT / range_ if range_ > 0 else 0.0
    kept: list[tuple[str, float, float]] = []
    for row in best:
        x, y = row["at"] * WIDTH / n_layers, row["score"] * down
        if all(abs(x - a) >= NAME[0] or abs(y - b) >= NAME[1] for _, a, b in kept):
            kept.append((row["neuron"], x, y))
    return {name for name, _, _ in kept}


def _lines(rows: list[Row], null_max: float | None) -> list[Spec]:
    mark = {"type": "rule", "style": "null", "strokeDash": [4, 3], "strokeWidth": 1.5}
    y: dict[str, Any] = {"datum": number(float(null_max)), "type": "quantitative"} if null_max is not None else {
        "field": "control", "type": "quantitative", "aggregate": "mean"
    }  # fmt: skip
    return [{"mark": mark, "encoding": {"y": y}}] if rows else []


def _points(rows: list[Row], x: Spec) -> Spec:
    styles = {"condition": {"test": "datum.found", "value": 1}, "value": 0.45}
    colour = {
        "field": "found",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": [True, False], "range": "category"},
    }
    return {
        "mark": {"type": "circle", "strokeWidth": 0},
        "encoding": {
            "x": x,
            "y": quantity("score", scale={"zero": False, "domainMax": _top(rows)}, title="score"),
            "color": colour,
            "opacity": styles,
            "size": {"condition": {"test": "datum.found", "value": 52}, "value": 15},
            "tooltip": tooltip(COLUMNS, {"neuron": "neuron"}, rows),
        },
    }


def _top(rows: list[Row]) -> float | int | str | None:
    """The upper end of the axis, far enough from the null that noise looks like noise."""
    scores = [row["score"] for row in rows if row.get("score") is not None]
    null = [row["control"] for row in rows if row.get("control") is not None]
    return number(max([*scores, *(c + LEAST for c in null)], default=1.0))


def _names(x: Spec, n_layers: int) -> list[Spec]:
    """Names to the right of their points, in the right half to their left, where there is room."""
    mark = {"type": "text", "style": "label", "baseline": "middle"}
    encoding = {"x": x, "y": quantity("score"), "text": {"field": "label"}}
    sides = (("<", "left", 7), (">=", "right", -7))
    return [
        {
            "transform": [{"filter": f"isValid(datum.label) && datum.at {side} {n_layers / 2 - 0.5}"}],
            "mark": {**mark, "align": align, "dx": dx},
            "encoding": encoding,
        }
        for side, align, dx in sides
    ]
