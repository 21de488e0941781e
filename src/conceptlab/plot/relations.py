"""How one concept's direction lies to those of the others: its cosines, the nearest first, beside those of random directions."""

from conceptlab.plot.channels import category, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, measured, number
from conceptlab.results import Scores

COLUMNS = {
    "cosine": "cosine",
    "causal": "under the causal inner product",
    "control": "random directions, mean |cosine|",
}
MOST = 24


def relation_chart(geometry: Scores, name: str, *, most: int = MOST) -> Chart | None:
    """The `most` concepts whose cosine with `name` is largest in size; None where it has no direction or stands alone.

    `geometry` has dims concept x concept_other and variables score, causal (NaN: not measured) and control.
    """
    rows = _rows(geometry, name)
    shown = rows[:most]
    if not shown:
        return None
    tip = tooltip(COLUMNS, {"concept": "with"}, shown)
    x = {"title": "cosine", "scale": {"domain": [-1, 1]}, "axis": {"grid": True, "tickCount": 5}}
    band = {"mark": {"type": "bar", "style": "null", "opacity": 0.28, "height": {"band": 0.9}},
            "encoding": {"x": quantity("control_from", **x), "x2": {"field": "control"}, "tooltip": tip}}  # fmt: skip
    bar = {"mark": {"type": "bar", "style": "measured", "height": {"band": 0.42}},
           "encoding": {"x": quantity("zero", **x), "x2": {"field": "cosine"}, "tooltip": tip}}  # fmt: skip
    ring = {"mark": {"type": "point", "style": "outline", "size": 60, "strokeWidth": 1.6, "opacity": 1},
            "encoding": {"x": quantity("causal", **x), "tooltip": tip}}  # fmt: skip
    causal = "causal" in shown[0] and shown[0]["causal"] is not None
    more = f", the nearest {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    says = (
        f"Cosine of this direction with those of the other concepts{more} (blue)"
        f"{'; rings: under the causal inner product' if causal else ''}. Grey: as far as two random directions of this width lie "
        "apart from a right angle, on average."
    )
    body = {
        "width": 420,
        "height": max(60, 22 * len(shown)),
        "encoding": {"y": category("concept", title=None)},
        "layer": [band, bar, *([ring] if causal else [])],
    }
    return Chart(f"{visible(name)}: relation to other concepts", says, body, tuple(shown))


def _rows(geometry: Scores, name: str) -> list[Row]:
    """One row another concept, the largest cosine in size first."""
    names = [str(v) for v in geometry["concept"].values]
    if name not in names:
        return []
    at, has_causal = names.index(name), measured(geometry.data, "causal")
    data = geometry.data.transpose("concept", "concept_other")
    rows = []
    for i, other in enumerate(names):
        if i == at:
            continue
        cosine, control = float(data["score"].values[at, i]), float(data["control"].values[at, i])
        row: Row = {"concept": visible(other, 28), "cosine": number(cosine), "control": number(control)}
        row |= {"causal": number(float(data["causal"].values[at, i]))} if has_causal else {}
        rows.append(row | {"control_from": number(-control), "zero": 0})
    return sorted((row for row in rows if row["cosine"] is not None), key=lambda row: -abs(row["cosine"]))
