"""The head atlas as one picture: a small map of layers x heads for every role, and of what every task loses without each head."""

from typing import Any

import numpy as np

from conceptlab.plot.channels import quantity, tooltip
from conceptlab.plot.chart import Chart
from conceptlab.plot.naming import visible
from conceptlab.plot.rows import Row, number
from conceptlab.results import Scores

CANDIDATE, CONFIRMED = 1, 2  # as the atlas labels them
SHORT = {
    "knowledge recalling": "recalling",
    "in-context identification": "identification",
    "latent reasoning": "reasoning",
    "expression preparation": "expression",
}
NUMBERS = {
    "score": "score",
    "control": "null, mean",
    "q": "q over heads",
    "loss": "lost without it",
    "loss_q": "q of the loss",
}
PALE = 4.0  # a panel in which nothing is listed is scaled as if its largest were so many times larger


def head_atlas_map(atlas: Scores, *, name: str = "") -> Chart:
    """Panels of roles, by stage, then of tasks. Colour: share of the panel's largest; outline: the role's score is there
    (q <= 0.05); dot: its task also loses by that head (roles), or q <= 0.05 (tasks)."""
    data = atlas.data
    rows = [row for i in range(data.sizes["role"]) for row in _role(data, i)]
    rows += [row for i in range(data.sizes.get("task", 0)) for row in _task(data, i)]
    n_layers, n_heads = data.sizes["layer"], data.sizes["head"]
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    columns = 3 if len(panels) <= 6 else 4
    body = {
        "facet": {
            "field": "panel",
            "type": "nominal",
            "sort": panels,
            "title": None,
            "header": {
                "title": None,
                "labelAnchor": "start",
                "labelPadding": 4,
                "labelLimit": 190,
                "labelFontSize": 11,
            },
        },
        "columns": columns,
        "spacing": {"row": 12, "column": 16},
        "resolve": {"axis": {"x": "independent", "y": "independent"}},
        "spec": _panel(n_layers, n_heads, rows),
    }
    title = f"{visible(name)}: head atlas" if name else "Head atlas"
    return Chart(title, _says(data), body, tuple(rows))


def _panel(n_layers: int, n_heads: int, rows: list[Row]) -> dict[str, Any]:
    ticks = {"labelAngle": 0, "labelOverlap": True, "ticks": False, "domain": False, "titlePadding": 4}
    cell = {"type": "rect", "cornerRadius": 1 if max(n_layers, n_heads) > 8 else 2}
    legend = {"orient": "top", "direction": "horizontal", "gradientLength": 140, "gradientThickness": 8, "tickCount": 3,
              "title": "share of the panel's largest"}  # fmt: skip
    colour = quantity("shade", scale={"domain": [0, 1], "clamp": True, "interpolate": "rgb"}, legend=legend)
    tip = tooltip(NUMBERS, {"unit": "head", "panel": "panel"}, rows)
    width, height = max(165, min(13 * n_layers, 260)), max(70, min(13 * n_heads, 260))
    dot = max(8, min(width / n_layers, height / n_heads) ** 2 * 0.16)
    layers = [
        {"mark": {**cell, "style": "edge", "strokeWidth": 1}, "encoding": {"color": colour, "tooltip": tip}},
        {
            "transform": [{"filter": f"datum.label >= {CANDIDATE}"}],
            "mark": {**cell, "style": "outline", "fillOpacity": 0, "strokeWidth": 1.5},
            "encoding": {"tooltip": tip},
        },
        {
            "transform": [{"filter": f"datum.label >= {CONFIRMED}"}],
            "mark": {
                "type": "point",
                "shape": "circle",
                "filled": True,
                "style": "node",
                "size": dot,
                "opacity": 1,
                "strokeWidth": 0.8,
            },
            "encoding": {"tooltip": tip},
        },
    ]
    position = {
        "x": {"field": "layer", "type": "ordinal", "axis": ticks, "title": "layer"},
        "y": {"field": "head", "type": "ordinal", "axis": ticks, "title": "head"},
    }
    return {"width": width, "height": height, "encoding": position, "layer": layers}


def _role(data: Any, i: int) -> list[Row]:
    at = data.isel(role=i)
    stage = str(at["stage"].values)
    panel = f"{visible(str(at['role'].values), 24)} · {SHORT.get(stage, stage)}"
    columns = {name: at[name].values for name in ("score", "control", "q", "label")}
    task = str(at["task_of"].values)
    tasks = data["task"].values.tolist() if "task" in data.dims else []
    if task in tasks:
        columns |= {name: data[name].values[tasks.index(task)] for name in ("loss", "loss_q")}
    return _cells(panel, columns, columns["score"] - columns["control"], bool((columns["label"] >= CANDIDATE).any()))


def _task(data: Any, i: int) -> list[Row]:
    at = data.isel(task=i)
    columns = {name: at[name].values for name in ("loss", "loss_q")}
    lost = (columns["loss_q"] <= 0.05) & (columns["loss"] > 0)
    columns["label"] = np.where(lost, CONFIRMED, 0)
    return _cells(f"lost: {visible(str(at['task'].values), 40)}", columns, columns["loss"], bool(lost.any()))


def _cells(panel: str, columns: dict[str, np.ndarray], value: np.ndarray, listed: bool) -> list[Row]:
    top = np.nanmax(value) * (1.0 if listed else PALE)
    shade = np.clip(value / top, 0, 1) if top > 0 else np.zeros_like(value)
    rows = []
    for layer, head in np.ndindex(value.shape):
        cells = {name: number(values[layer, head]) for name, values in columns.items()}
        rows.append({"panel": panel, "layer": layer, "head": head, "unit": f"L{layer}.H{head}",
                     "shade": number(shade[layer, head]), **cells})  # fmt: skip
    return rows


def _says(data: Any) -> str:
    label = data["label"].values
    found, sure = int((label >= CANDIDATE).any(0).sum()), int((label >= CONFIRMED).any(0).sum())
    n = label[0].size
    return (
        f"{found or 'None'} of {n} heads {'has' if found == 1 else 'have'} a role (outlined: score beyond its null, q ≤ 0.05 over "
        f"heads); for {sure or 'none'} the role's task also loses when that head is taken away (dot). Panels that begin with "
        "lost show what a task loses without each head."
    )
