"""The templates of the report, the viewer and the single charts: Jinja2 with everything escaped."""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from conceptlab.pages.spark import HEIGHT, WIDTH, spark_area, spark_path
from conceptlab.plot.naming import visible
from conceptlab.plot.theme import config

HERE = Path(__file__).parent
STATIC = HERE / "viewer" / "static"
FRAME = ("core.js", "theme.js", "htmx.min.js", "viewer.css")  # what the layout names itself
# In a data block `<` could end the element and these two separators end a line of JavaScript.
UNSAFE = {c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def data_block(value: Any) -> Markup:
    """JSON that is safe inside a `<script type="application/json">`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.encode("utf-8", "backslashreplace").decode()
    for unsafe, escaped in UNSAFE.items():  # several times as fast as translate, which looks at every character
        text = text.replace(unsafe, escaped)
    return Markup(text)


def written(value: float | None) -> str:
    """A number as every page writes it: three digits after the point from 0.1 on, two significant ones below, a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 99.9995:  # here and below where rounding ends in the next form
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) >= 0.0995 or value == 0 else f"{value:#.2g}"


def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return (HERE / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def templates() -> jinja2.Environment:
    """The one environment; a name that is not defined is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["data_block"] = data_block
    made.filters["visible"] = visible
    made.globals.update(spark_path=spark_path, spark_area=spark_area, spark_box=f"0 0 {WIDTH} {HEIGHT}")
    made.globals.update(modules=modules, sheets=sheets, themes=themes, written=written)
    return made


@lru_cache(maxsize=1)
def modules() -> list[str]:
    """The viewer's widgets, each a module that needs no other."""
    return sorted(path.name for path in STATIC.glob("*.js") if path.name not in FRAME)


@lru_cache(maxsize=1)
def sheets() -> list[str]:
    """The viewer's styles besides the frame's."""
    return sorted(path.name for path in STATIC.glob("*.css") if path.name not in FRAME)


@lru_cache(maxsize=1)
def themes() -> dict[str, Any]:
    """The charts' colours, light and dark."""
    return {"light": config(), "dark": config(dark=True)}
