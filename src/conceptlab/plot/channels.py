"""The words of a Vega-Lite specification that every chart uses: channels, tooltips, and the one layer axis."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from conceptlab.plot.naming import visible

Spec = dict[str, Any]


def quantity(field: str, **more: Any) -> Spec:
    """A channel that shows a number."""
    return {"field": field, "type": "quantitative", **more}


def category(field: str, **more: Any) -> Spec:
    """A channel that shows a name, in the order of the data."""
    return {"field": field, "type": "nominal", "sort": None, **more}


def tooltip(numbers: Mapping[str, str], names: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> list[Spec]:
    """One line a column that the rows have: names first, then numbers with four decimals."""
    present = rows[0] if rows else {}
    lines = [{"field": c, "type": "nominal", "title": title} for c, title in names.items() if c in present]
    exact = [quantity(c, title=title, format=".4~f") for c, title in numbers.items() if c in present]
    return lines + exact


def layer_axis(labels: Sequence[str], *, field: str = "at", pad: float = 0.5) -> Spec:
    """A quantitative x over positions 0, 1, ... with the layers' labels, so that a fraction of the depth has a place."""
    shown = json.dumps([visible(str(label), 12) for label in labels])
    axis = {"values": list(range(len(labels))), "labelExpr": f"{shown}[datum.value]", "title": "layer", "format": "d"}
    return quantity(field, axis=axis, scale={"domain": [-pad, len(labels) - 1 + pad], "nice": False, "zero": False})
