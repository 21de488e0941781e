"""Charts as files: PNG and SVG drawn by vl-convert, CSV of the rows, JSON of the specification."""

import csv
import io
import json
from pathlib import Path

from conceptlab.errors import ResultError
from conceptlab.plot.chart import VERSION, Chart
from conceptlab.results.saving import write_bytes

FORMATS = ("png", "svg", "csv", "json")


def png(chart: Chart, *, scale: float = 2.0, dark: bool = False) -> bytes:
    """The picture, `scale` pixels a point."""
    import vl_convert

    return vl_convert.vegalite_to_png(json.dumps(chart.to_dict(dark=dark)), vl_version=VERSION, scale=scale)


def svg(chart: Chart, *, dark: bool = False) -> str:
    """The picture as vectors."""
    import vl_convert

    return vl_convert.vegalite_to_svg(json.dumps(chart.to_dict(dark=dark)), vl_version=VERSION)


def csv_text(chart: Chart) -> str:
    """The rows of the chart with a header. A cell that a spreadsheet would take for a formula gets a leading quote."""
    columns = list(dict.fromkeys(name for row in chart.rows for name in row))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(c)) for c in columns] for row in chart.rows)
    return out.getvalue()


def save_chart(chart: Chart, path: Path) -> Path:
    """Write `chart` in the format that the ending of `path` names. Raises ResultError for another ending."""
    kind = path.suffix.lstrip(".").lower()
    if kind not in FORMATS:
        raise ResultError(f"a chart cannot be written as {path.name!r}; end the name in .{', .'.join(FORMATS)}")
    if kind == "png":
        data = png(chart)
    else:
        text = {"svg": svg, "csv": csv_text, "json": lambda c: json.dumps(c.to_dict(), ensure_ascii=False)}[kind](chart)
        data = text.encode()
    write_bytes(path, data)
    return path


def _cell(value: object) -> object:
    starts = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t")
    return f"'{value}" if starts else "" if value is None else value
