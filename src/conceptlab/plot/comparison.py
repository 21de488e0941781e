"""Two atlases concept by concept: a point a concept, its score in one across and in the other up, beside both controls."""

from collections.abc import Sequence

from conceptlab.plot.channels import Spec, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row

COLUMNS = {
    "one": "score, first", "one_low": "95 % interval from", "one_high": "to", "one_control": "shuffled labels, first",
    "other": "score, second", "other_low": "95 % interval from", "other_high": "to", "other_control": "shuffled labels, second",
    "difference": "difference",
}  # fmt: skip


def comparison_chart(rows: Sequence[Row], one: str, other: str) -> Chart:
    """`rows` have concept, differs, and for `one` and `other` the score, `_low`, `_high` and `_control`."""
    tip = tooltip(COLUMNS, {"concept": "concept"}, rows)
    names = visible(one, 40), visible(other, 40)
    x = {"title": f"score in {names[0]}", "scale": {"zero": False, "nice": True}, "axis": {"grid": True}}
    y = {"title": f"score in {names[1]}", "scale": {"zero": False, "nice": True}}
    ends = [value for row in rows for key in ("one", "other") if (value := row.get(key)) is not None]
    controls = [
        value for row in rows for key in ("one_control", "other_control") if (value := row.get(key)) is not None
    ]
    low, high = min([*ends, *controls], default=0.0), max([*ends, *controls], default=1.0)
    line: Spec = {
        "data": {"name": "diagonal"},
        "mark": {"type": "line", "style": "note-rule", "strokeDash": [3, 3], "strokeWidth": 1},
        "encoding": {"x": quantity("one", **x), "y": quantity("other", **y)},
    }
    null: Spec = {
        "mark": {"type": "point", "style": "null", "filled": True, "size": 24, "opacity": 0.6},
        "encoding": {"x": quantity("one_control", **x), "y": quantity("other_control", **y), "tooltip": tip},
    }
    across: Spec = {
        "mark": {"type": "rule", "style": "measured", "opacity": 0.35},
        "encoding": {"x": quantity("one_low", **x), "x2": {"field": "one_high"}, "y": quantity("other", **y)},
    }
    up: Spec = {
        "mark": {"type": "rule", "style": "measured", "opacity": 0.35},
        "encoding": {"x": quantity("one", **x), "y": quantity("other_low", **y), "y2": {"field": "other_high"}},
    }
    points: Spec = {
        "mark": {"type": "point", "filled": True, "style": ["measured", "edge"], "strokeWidth": 1.2},
        "encoding": {
            "x": quantity("one", **x), "y": quantity("other", **y), "tooltip": tip,
            "size": {"condition": {"test": "datum.differs", "value": 95}, "value": 42},
            "opacity": {"condition": {"test": "datum.differs", "value": 1}, "value": 0.55},
        },
    }  # fmt: skip
    says = (
        f"One point a concept: its score in {names[0]} across and in {names[1]} up, with both 95 % intervals. On the dashed line "
        "they are equal; large points lie off it by more than the interval of their difference. Grey: the same on shuffled labels."
    )
    body = {"width": 520, "height": 420, "layer": [line, null, across, up, points]}
    diagonal: tuple[Row, ...] = ({"one": low, "other": low}, {"one": high, "other": high})
    return Chart("Score by score", says, body, tuple(rows), {"diagonal": diagonal})
