"""The small curve of the summary table, as the path of an inline SVG."""

import math
from collections.abc import Sequence

WIDTH, HEIGHT, TOP = 84, 22, 0.5  # TOP: a score that lies this far above its control reaches the upper edge


def spark_points(values: Sequence[float]) -> list[tuple[float, float]]:
    """(x, y) in the SVG's units for the values that are numbers."""
    step = (WIDTH - 6) / max(len(values) - 1, 1)
    height = HEIGHT - 6
    return [
        (round(3 + i * step, 1), round(3 + height * (1 - min(max(v / TOP, 0.0), 1.0)), 1))
        for i, v in enumerate(values)
        if not math.isnan(v)
    ]


def spark_path(values: Sequence[float]) -> str:
    """The `d` of the line."""
    return "M" + "L".join(f"{x} {y}" for x, y in points) if (points := spark_points(values)) else ""


def spark_area(values: Sequence[float]) -> str:
    """The `d` of the area below the line."""
    points = spark_points(values)
    if not points:
        return ""
    line = "L".join(f"{x} {y}" for x, y in points)
    return f"M{points[0][0]} {HEIGHT - 3}L{line}L{points[-1][0]} {HEIGHT - 3}Z"
