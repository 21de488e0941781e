"""Direct contributions as tables for a page: sums by layer, a map of heads, and the components themselves."""

import re
from typing import Any

import numpy as np

from conceptlab.results import Scores

HEAD = re.compile(r"L(\d+)\.H(\d+)$")
IN_LAYER = re.compile(r"L(\d+)\.(H\d+|[a-z_.]+)$")
COLUMNS = ("score", "control", "control_low", "control_high", "p", "q")


def rows_of_scores(scores: Scores) -> list[dict[str, Any]]:
    """One row a component with its score and control."""
    names = [str(name) for name in scores["component"].values]
    columns = {column: scores[column].values.tolist() for column in COLUMNS}
    return [{"component": name, **{c: columns[c][i] for c in COLUMNS}} for i, name in enumerate(names)]


def by_layer(scores: Scores) -> list[dict[str, Any]]:
    """Sums over the parts of each layer's attention and MLP, with the embedding first and biases of the end last."""
    found: dict[str, dict[str, float]] = {}
    for row in rows_of_scores(scores):
        where = IN_LAYER.match(row["component"])
        layer = where[1] if where else row["component"]
        own = found.setdefault(layer, {"attention": 0.0, "mlp": 0.0, "other": 0.0})
        own[kind_of(where[2]) if where else "other"] += row["score"]
    return [{"layer": layer, **parts} for layer, parts in found.items()]


def kind_of(part: str) -> str:
    """attention, mlp or other, by a component's name inside its layer."""
    if part.startswith(("H", "attn")):
        return "attention"
    return "mlp" if part == "mlp" else "other"


def head_map(scores: Scores) -> tuple[np.ndarray | None, np.ndarray]:
    """Scores [layer, head] and the half width of the 95 % band of their control; NaN where there is no head, None without heads."""
    cells = {}
    for row in rows_of_scores(scores):
        where = HEAD.match(row["component"])
        if where:
            band = (row["control_high"] - row["control_low"]) / 2
            cells[int(where[1]), int(where[2])] = (row["score"], band)
    if not cells:
        return None, np.zeros((0, 0))
    shape = (max(layer for layer, _ in cells) + 1, max(head for _, head in cells) + 1)
    found = np.full((2, *shape), np.nan)
    for (layer, head), values in cells.items():
        found[:, layer, head] = values
    return found[0], found[1]
