"""The needle map: how often a hidden fact is found, by length of the text and depth of the fact."""

from conceptlab.plot.channels import category, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import rows_of
from conceptlab.results import Scores

COLUMNS = {
    "score": "answered right",
    "low": "95 % low",
    "high": "95 % high",
    "control": "without the needle",
    "p": "p",
    "q": "q over all cells",
}
CELL = 34  # pixels


def needle_map(accuracy: Scores, *, name: str = "") -> Chart:
    """Depth down, length across, coloured by the share answered right; in each cell that share in percent."""
    rows = rows_of(accuracy.data, COLUMNS)
    for row in rows:
        row["depth"], row["percent"] = f"{row['depth']:.0%}", f"{row['score']:.0%}".rstrip("%")
        row["dark"] = row["score"] >= 0.6
    legend = {"orient": "top", "direction": "horizontal", "gradientLength": 160, "gradientThickness": 8, "tickCount": 4}
    shade = {"domain": [0, 1], "clamp": True, "nice": False, "interpolate": "rgb"}
    colour = quantity("score", scale=shade, legend={**legend, "title": "answered right", "format": "%"})
    ticks = {"ticks": False, "domain": False, "labelOverlap": True}
    position = {
        "x": category("length", axis={**ticks, "labelAngle": 0}, title="length of the prompt, tokens"),
        "y": category("depth", axis=ticks, title="depth of the needle"),
    }
    cell = {"type": "rect", "cornerRadius": 2, "style": "edge", "strokeWidth": 1.5}
    layers = [
        {
            "mark": cell,
            "encoding": {
                "color": colour,
                "tooltip": tooltip(COLUMNS, {"length": "length", "depth": "depth"}, rows),
            },
        },
        {
            "mark": {"type": "text", "fontSize": 11, "tooltip": None},
            "encoding": {
                "text": {"field": "percent", "type": "nominal"},
                "color": {"condition": {"test": "datum.dark", "value": "#ffffff"}, "value": "#1f2937"},
            },
        },
    ]
    sizes = accuracy.data.sizes
    body = {
        "width": max(340, min(1.6 * CELL * sizes["length"], 640)),
        "height": max(120, min(CELL * sizes["depth"], 420)),
        "encoding": position,
        "layer": layers,
    }
    most = float(accuracy["control"].max())
    n = accuracy.provenance.n
    says = f"Share of {n} needles that were answered right, in percent. Without the needle at most {most:.0%} were."
    title = f"{visible(name)}: needles found" if name else "Needles found in long texts"
    return Chart(title, says, body, tuple(rows))
