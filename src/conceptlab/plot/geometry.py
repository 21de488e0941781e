"""The cosine map: how the directions of different concepts lie to each other."""

from conceptlab.plot.channels import category, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, measured, rows_of
from conceptlab.results import Scores

PANELS = {"score": "plain cosine", "causal": "cosine under the causal inner product"}
COLUMNS = {"cosine": "cosine", "control": "random directions, mean |cosine|"}


def cosine_map(geometry: Scores) -> Chart:
    """Concept x concept, one panel under the plain and one under the causal inner product, where that was measured."""
    rows = _rows(geometry)
    n = geometry.data.sizes["concept"]
    side = max(180, min(30 * n, 380))
    legend = {
        "orient": "top",
        "direction": "horizontal",
        "gradientLength": 160,
        "gradientThickness": 8,
        "title": "cosine",
    }
    colour = quantity(
        "cosine", scale={"domain": [-1, 1], "domainMid": 0, "range": "diverging", "interpolate": "rgb"}, legend=legend
    )
    axis = {"ticks": False, "domain": False, "labelOverlap": False, "labelLimit": 110}
    panel = {
        "width": side,
        "height": side,
        "mark": {"type": "rect", "style": "edge", "strokeWidth": 1.5, "cornerRadius": 2},
        "encoding": {
            "x": category("concept_other", title=None, axis={**axis, "labelAngle": -45}),
            "y": category("concept", title=None, axis=axis),
            "color": colour,
            "tooltip": tooltip(COLUMNS, {"concept": "concept", "concept_other": "with"}, rows),
        },
    }
    header = {"title": None, "orient": "top", "labelAnchor": "start"}
    body = {
        "facet": {"field": "panel", "type": "nominal", "sort": list(PANELS.values()), "header": header, "title": None},
        "columns": 2,
        "spacing": 30,
        "spec": panel,
    }
    says = (
        "Cosine between the directions of each pair of concepts: blue points the same way, orange the opposite way, pale is "
        "unrelated. Two random directions of this model lie at the value that the tooltip gives."
    )
    return Chart("How the directions lie to each other", says, body, tuple(rows))


def _rows(geometry: Scores) -> list[Row]:
    rows = rows_of(geometry.data, ("score", "causal", "control"))
    panels = [column for column in PANELS if measured(geometry.data, column)]
    return [
        {
            "panel": PANELS[column],
            "concept": visible(row["concept"], 28),
            "concept_other": visible(row["concept_other"], 28),
            "cosine": row[column],
            "control": row.get("control"),
        }
        for column in panels
        for row in rows
    ]
