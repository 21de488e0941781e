"""Does the cost of a sweep grow as its plan says, from 2 to 48 layers and 16 to 1,024 tokens? A table and a chart."""

from pathlib import Path

from conceptlab.plot.chart import Chart
from conceptlab.plot.export import save_chart

from .sweeps import growth
from .table import Row

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "sweep_growth.png"
BY_DEPTH = [(2, 64), (6, 64), (12, 64), (24, 64), (48, 64)]
BY_LENGTH = [(6, 16), (6, 256), (6, 1024)]  # 6 layers of 64 tokens stand above
GROUP = "Growth of a stream sweep (GPT-2 form, width 256, four positions at every layer), one bare forward = 1"


def growth_rows() -> list[Row]:
    """One row a size; the chart is written to docs/images."""
    found = growth("gpt2", BY_DEPTH) + growth("gpt2", BY_LENGTH)
    save_chart(picture(found), PICTURE)
    return [
        Row(GROUP, f"{f['layers']:.0f} layers, {f['tokens']:.0f} tokens", f"{f['measured']:.3g}", f["measured"],
            note=f"the plan says {f['plan']:.3g} ([chart](images/{PICTURE.name}))")
        for f in found
    ]  # fmt: skip


def picture(found: list[dict[str, float]]) -> Chart:
    """Measured against planned cost; on the diagonal a forward-equivalent costs one forward."""
    rows = [{**f, "size": f"{f['layers']:.0f} layers, {f['tokens']:.0f} tokens"} for f in found]
    most = max(max(f["plan"], f["measured"]) for f in found) * 1.3
    scale = {"type": "log", "domain": [1, most]}
    body = {
        "width": 420,
        "height": 420,
        "layer": [
            {"data": {"values": [{"a": 1}, {"a": most}]}, "mark": {"type": "line", "strokeDash": [4, 4], "opacity": 0.6},
             "encoding": {"x": {"field": "a", "type": "quantitative", "scale": scale},
                          "y": {"field": "a", "type": "quantitative", "scale": scale}}},
            {"mark": {"type": "point", "filled": True, "size": 70},
             "encoding": {"x": {"field": "plan", "type": "quantitative", "scale": scale, "title": "planned, forward-equivalents"},
                          "y": {"field": "measured", "type": "quantitative", "scale": scale, "title": "measured, bare forwards"}}},
            {"mark": {"type": "text", "align": "left", "dx": 8, "fontSize": 10},
             "encoding": {"x": {"field": "plan", "type": "quantitative"}, "y": {"field": "measured", "type": "quantitative"},
                          "text": {"field": "size"}}},
        ],
    }  # fmt: skip
    says = (
        "On the line a planned forward-equivalent costs one bare forward; below it a sweep costs less, above it more."
    )
    return Chart("Cost of a sweep beside its plan", says, body, tuple(rows))
