"""The effect chart: what happens when the direction, the heads or the neurons are changed, beside random ones."""

from collections.abc import Mapping

from conceptlab.plot.channels import category, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, rows_of
from conceptlab.results import Scores

COLUMNS = {
    "score": "effect",
    "low": "95 % interval from",
    "high": "to",
    "control": "random controls, mean",
    "control_high": "random controls, 95 %",
    "p": "p",
}
STARTS = ("score", "low", "control", "control_low")  # fmt: skip


def effect_chart(effects: Scores, *, name: str = "", readouts: Mapping[str, str] | None = None) -> Chart:
    """One panel a readout, one line an intervention: the effect with its interval over the random controls' range.

    `effects` has dims intervention x readout; `readouts` gives words and units for the readouts' labels.
    """
    rows = _rows(effects, readouts or {})
    tip = tooltip(COLUMNS, {"intervention": "change", "readout": "read in"}, rows)
    x = {"title": None, "scale": {"nice": True, "zero": False}, "axis": {"tickCount": 5, "grid": True}}
    layers = [
        {
            "mark": {"type": "bar", "style": "null", "opacity": 0.3, "height": 16},
            "encoding": {"x": quantity("control_from", **x), "x2": {"field": "control_high"}, "tooltip": tip},
        },
        {
            "mark": {"type": "tick", "style": "null", "thickness": 2, "size": 16},
            "encoding": {"x": quantity("control"), "tooltip": tip},
        },
        {
            "mark": {"type": "rule", "style": "measured", "strokeWidth": 2.4},
            "encoding": {"x": quantity("low"), "x2": {"field": "high"}, "tooltip": tip},
        },
        {
            "mark": {"type": "point", "filled": True, "style": ["measured", "edge"], "size": 90, "opacity": 1,
                     "strokeWidth": 1.5},
            "encoding": {"x": quantity("score"), "tooltip": tip},
        },
    ]  # fmt: skip
    panel = {
        "width": 420,
        "height": {"step": 30},
        "encoding": {"y": category("intervention", title=None)},
        "layer": layers,
    }
    header = {"title": None, "orient": "top", "labelAnchor": "start", "labelPadding": 4}
    says = (
        "Effect of each change (blue, with its 95 % interval) beside the same change with random directions or units "
        "(grey: the tick is their mean, the bar's right end their 95 % point)."
    )
    body = {
        "facet": {
            "field": "readout",
            "type": "nominal",
            "sort": list(dict.fromkeys(row["readout"] for row in rows)),
            "header": header,
            "title": None,
        },
        "columns": 1,
        "spacing": 26,
        "spec": panel,
        "resolve": {"scale": {"x": "independent"}},
    }
    return Chart(f"{visible(name)}: is it used?" if name else "Is it used?", says, body, tuple(rows))


def _rows(effects: Scores, readouts: Mapping[str, str]) -> list[Row]:
    rows = [row for row in rows_of(effects.data, (*COLUMNS, "control_low")) if row.get("score") is not None]
    for row in rows:
        words = readouts.get(row["readout"], row["readout"])
        row |= {"intervention": visible(row["intervention"], 40), "readout": visible(words, 80)}
    for row in rows:
        panel = [r for r in rows if r["readout"] == row["readout"]]
        lowest = min(r[c] for r in panel for c in STARTS if r.get(c) is not None)
        row["control_from"] = row["control_low"] if row.get("control_low") is not None else min(0.0, lowest)
    return rows
