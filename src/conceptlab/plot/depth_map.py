"""The depth map: every concept in one picture, how far above its control it can be read at each layer."""

from collections.abc import Collection, Mapping

from conceptlab.plot.channels import category, layer_axis, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, number, rows_of
from conceptlab.results import Scores

COLUMNS = {"above": "above control", "score": "score", "control": "shuffled labels, mean"}


def depth_map(depths: Mapping[str, Scores], *, found: Collection[str] | None = None) -> Chart:
    """Concepts x layers, coloured by score above the mean of the null; concepts outside `found` are drawn faint.

    Each of `depths` has dim `layer` with the same labels. A dot marks the best layer of a concept that was found.
    """
    labels = [str(v) for v in next(iter(depths.values()))["layer"].values]
    rows = [row for name, depth in depths.items() for row in _rows(name, depth, found is None or name in found)]
    above = {
        "scale": {"domainMin": 0, "clamp": True, "nice": True, "interpolate": "rgb"},
        "title": "score above control",
    }
    legend = {"orient": "top", "direction": "horizontal", "gradientLength": 160, "gradientThickness": 8, "tickCount": 4}
    names = category("concept", title=None, scale={"paddingInner": 0.08})
    cells = {
        "mark": {"type": "rect", "cornerRadius": 2},
        "transform": [{"calculate": "datum.at - 0.47", "as": "left"}, {"calculate": "datum.at + 0.47", "as": "right"}],
        "encoding": {
            "x": layer_axis(labels, field="left"),
            "x2": {"field": "right"},
            "y": names,
            "color": quantity("above", **above, legend=legend),
            "opacity": {"condition": {"test": "datum.found", "value": 1}, "value": 0.4},
            "tooltip": tooltip(COLUMNS, {"concept": "concept", "layer": "layer", "verdict": "verdict"}, rows),
        },
    }
    dots = {
        "transform": [{"filter": "datum.best"}],
        "mark": {"type": "point", "filled": True, "style": ["measured", "edge"], "size": 46, "strokeWidth": 1.5,
                 "opacity": 1, "tooltip": None},
        "encoding": {"x": layer_axis(labels), "y": names},
    }  # fmt: skip
    says = (
        "How far the probe's score lies above the same procedure on shuffled labels, for each concept (rows) at each layer "
        "(columns). A dot marks the best layer; faint rows were not found."
    )
    body = {"width": 600, "height": 26 * len(depths), "layer": [cells, dots]}
    return Chart("Where each concept becomes readable", says, body, tuple(rows))


def _rows(name: str, depth: Scores, is_found: bool) -> list[Row]:
    rows = [
        {"concept": visible(name, 28), "at": i, **r} for i, r in enumerate(rows_of(depth.data, ("score", "control")))
    ]
    best = max(rows, key=lambda r: r.get("score") or float("-inf"))
    for row in rows:
        score, control = row.get("score"), row.get("control")
        row["above"] = number(score - control) if score is not None and control is not None else None
        row |= {"found": is_found, "verdict": "found" if is_found else "not found", "best": is_found and row is best}
    return rows
