"""The effect map: what each place of the model does to the answer, by layer and position, head, sender or span of keys."""

from conceptlab.plot.channels import category, quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, rows_of
from conceptlab.results import Scores

COLUMNS = {
    "score": "effect",
    "low": "95 % low",
    "high": "95 % high",
    "control": "control",
    "p": "p",
    "q": "q over all cells",
}
ACROSS = ("position", "head", "sender", "span", "neuron")
CELL = 22  # pixels
LEAST = 0.01  # of the whole change: what is outlined must also be more than a trace


def patching_map(effects: Scores, *, name: str = "", q_max: float = 0.05) -> Chart:
    """One cell a place, coloured by effect around 0; outlined where q <= `q_max`. Layers or receivers x positions, heads, …"""
    dims = [str(d) for d in effects.data["score"].dims]
    down = next(d for d in dims if d in ("layer", "receiver"))
    across = next(d for d in dims if d in ACROSS)
    rows = _rows(effects, down, across, q_max)
    most = max([0.05, *(abs(row["score"]) for row in rows if row["score"] is not None)])
    legend = {
        "orient": "top",
        "direction": "horizontal",
        "gradientLength": 160,
        "gradientThickness": 8,
        "title": "effect",
    }
    colour = quantity(
        "score",
        scale={"domain": [-most, most], "domainMid": 0, "range": "diverging", "interpolate": "rgb"},
        legend=legend,
    )
    tip = tooltip(COLUMNS, {down: down, across: across}, rows)
    cell = {"type": "rect", "cornerRadius": 2}
    layers = [
        {"mark": {**cell, "style": "edge", "strokeWidth": 1}, "encoding": {"color": colour, "tooltip": tip}},
        {
            "transform": [{"filter": "datum.found"}],
            "mark": {**cell, "style": "outline", "fillOpacity": 0, "strokeWidth": 2},
            "encoding": {"tooltip": tip},
        },
    ]
    sizes = effects.data.sizes
    ticks = {"ticks": False, "domain": False, "labelOverlap": True}
    turned = -45 if across in ("sender", "span") else 0
    position = {
        "x": category(across, axis={**ticks, "labelAngle": turned}, title=across),
        "y": category(down, axis=ticks, title=down, **({"sort": "descending"} if down == "layer" else {})),
    }
    body = {
        "width": max(340, min(CELL * sizes[across], 640)),
        "height": max(90, min(CELL * sizes[down], 520)),
        "encoding": position,
        "layer": layers,
    }
    title = f"{visible(name)}: {_title(effects)}" if name else _title(effects).capitalize()
    return Chart(title, _says(effects, rows), body, tuple(rows))


def _rows(effects: Scores, down: str, across: str, q_max: float) -> list[Row]:
    data = effects.data[["score", *(c for c in COLUMNS if c in effects.data and c != "score")]]
    rows = rows_of(data, COLUMNS)
    for row in rows:
        row.setdefault("score", None)
        large = row["score"] is not None and abs(row["score"]) >= LEAST
        row["found"] = large and row.get("q") is not None and row["q"] <= q_max
        row[across] = visible(str(row[across]), 24) if isinstance(row[across], str) else row[across]
        row[down] = visible(str(row[down]), 32) if isinstance(row[down], str) else row[down]
    return rows


def _title(effects: Scores) -> str:
    attrs = effects.data.attrs
    where = f" of {attrs['site']}, {attrs['direction']}" if "site" in attrs else ""
    return f"{effects.provenance.method}{where}"


def _says(effects: Scores, rows: list[Row]) -> str:
    n_found = sum(row["found"] for row in rows)
    unit = {
        "attention knock-out": "Loss of the metric when attention to the span is cut",
    }.get(effects.provenance.method, "Share of the whole change (1: as much as changing everything)")
    outlined = f"{n_found or 'None'} of {len(rows)} cells {'is' if n_found == 1 else 'are'} outlined: q ≤ 0.05 against"
    return f"{unit}; blue acts for the answer, orange against it. {outlined} a random change of the same size, at least {LEAST:g}."
