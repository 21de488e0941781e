"""What each component contributes to a logit: the largest of them, with intervals, beside random tokens."""

from conceptlab.plot.channels import category, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import rows_of
from conceptlab.results import Scores

COLUMNS = {
    "score": "contribution", "low": "95 % interval from", "high": "to", "control": "random tokens, mean",
    "control_low": "random tokens, 2.5 %", "control_high": "97.5 %", "p": "p", "q": "q over components",
}  # fmt: skip


def contribution_chart(contributions: Scores, *, name: str = "", top: int = 20, q_max: float = 0.05) -> Chart:
    """The `top` components by size, in order of the model; hollow where q > `q_max`."""
    kept = {k: "component" for k in COLUMNS if k in contributions.data}
    rows = rows_of(contributions.data[list(kept)], kept)
    largest = sorted(rows, key=lambda r: -abs(r.get("score") or 0.0))[:top]
    rows = [row for row in rows if any(row is r for r in largest)]
    for row in rows:
        row["found"] = row.get("q") is not None and row["q"] <= q_max
    tip = tooltip(COLUMNS, {"component": "component"}, rows)
    x = {"title": "logits", "axis": {"grid": True, "tickCount": 6}}
    point = {"type": "point", "style": "measured", "size": 70, "opacity": 1, "strokeWidth": 1.8}
    layers = [
        {"mark": {"type": "rule", "style": "note-rule", "opacity": 0.6}, "encoding": {"x": {"datum": 0}, "y": {}}},
        {"mark": {"type": "bar", "style": "null", "opacity": 0.3, "height": 12},
         "encoding": {"x": quantity("control_low", **x), "x2": {"field": "control_high"}, "tooltip": tip}},
        {"mark": {"type": "rule", "style": "measured", "strokeWidth": 2.2},
         "encoding": {"x": quantity("low", **x), "x2": {"field": "high"}, "tooltip": tip}},
        {"transform": [{"filter": "datum.found"}], "mark": {**point, "filled": True},
         "encoding": {"x": quantity("score", **x), "tooltip": tip}},
        {"transform": [{"filter": "!datum.found"}], "mark": point,
         "encoding": {"x": quantity("score", **x), "tooltip": tip}},
    ]  # fmt: skip
    says = (
        f"What each component's own output gives to the answer's logit (blue, 95 % interval), beside random tokens in the answer's "
        f"place (grey: 95 % of draws). Filled: q ≤ {q_max:g}."
    )
    encoding = {"y": category("component", title=None, axis={"ticks": False, "domain": False, "labelOverlap": False})}
    body = {"width": 460, "height": 20 * len(rows), "encoding": encoding, "layer": layers}
    return Chart(f"{visible(name)}: direct contributions" if name else "Direct contributions", says, body, tuple(rows))
