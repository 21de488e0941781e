"""How every chart looks: one colour a role (colour-blind safe, after Okabe and Ito), quiet axes, light and dark."""

from typing import Any

# The order is the domain of every legend, so that a role keeps its colour in every chart.
ROLES = ("measured", "shuffled labels", "control task", "noised input", "quantised weights")
LIGHT = ("#0b62a4", "#858b95", "#c97a00", "#0c8566", "#a8498f")
DARK = ("#63b8f2", "#8b929d", "#f0a940", "#41cda6", "#e492cd")
HEAT = ("#eef1f5", "#d3e2f0", "#a9cae6", "#6ea6d6", "#2f7fbe", "#0b5a99", "#083a68")
HEAT_DARK = ("#20252c", "#1d3950", "#1d5379", "#2474a8", "#3f9ad6", "#7cc4f5", "#d3ebff")
TURN = ("#8f3d00", "#c76f24", "#e8b586", "#f2f2f3", "#9cc3e4", "#3f88c5", "#0b4f88")
TURN_DARK = ("#ffb873", "#d98332", "#7d4a1c", "#24282e", "#1f527d", "#3f95d6", "#a3d8ff")
FONT = "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def config(*, dark: bool = False) -> dict[str, Any]:
    """The Vega-Lite `config` of the theme."""
    ink, quiet, line = ("#e8eaed", "#a2a9b4", "#343a43") if dark else ("#1d2329", "#5b636e", "#e3e1da")
    paper = "#15181c" if dark else "#ffffff"
    colours = DARK if dark else LIGHT
    text = {"labelColor": quiet, "titleColor": quiet, "labelFontSize": 11, "titleFontSize": 11, "titleFontWeight": 500}
    return {
        "background": paper,
        "font": FONT,
        "view": {"stroke": None},
        "title": {
            "anchor": "start", "color": ink, "fontSize": 15, "fontWeight": 600, "subtitleColor": quiet,
            "subtitleFontSize": 12, "subtitleLineHeight": 17, "subtitlePadding": 6, "offset": 14, "frame": "group",
        },
        "axis": {
            **text, "gridColor": line, "domainColor": line, "tickColor": line, "tickSize": 4, "labelPadding": 5,
            "titlePadding": 9, "labelLimit": 150, "labelOverlap": True,
        },
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "legend": {**text, "symbolStrokeWidth": 2.5, "labelLimit": 220},
        "header": {"labelColor": ink, "labelFontSize": 12, "labelFontWeight": 500, "labelLimit": 420, "titleColor": quiet},
        "range": {
            "category": list(colours),
            "heatmap": list(HEAT_DARK if dark else HEAT),
            "ramp": list(HEAT_DARK if dark else HEAT),
            "diverging": list(TURN_DARK if dark else TURN),
        },
        "style": {
            "measured": {"color": colours[0]},
            "null": {"color": colours[1]},
            "outline": {"stroke": ink},
            "edge": {"stroke": paper},
            "node": {"color": paper, "stroke": quiet},
            "note": {"color": quiet, "fontSize": 11},
            "note-rule": {"color": quiet},
            "label": {"color": ink, "fontSize": 11, "fontWeight": 500},
        },
    }  # fmt: skip
