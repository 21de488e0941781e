"""Content to HTML: Jinja2 with everything escaped, one style, two scripts, and a content-security policy by their hashes."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from conceptlab.pages.bundle import begin_bundle
from conceptlab.pages.content import Report, SummaryRow
from conceptlab.pages.spark import HEIGHT, WIDTH, spark_area, spark_path
from conceptlab.plot import Chart
from conceptlab.plot.theme import config
from conceptlab.results.saving import write_bytes

HERE = Path(__file__).parent
# In a data block `<` could end the element and these two separators end a line of JavaScript.
UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render_report(report: Report) -> str:
    """The whole page. It loads nothing: the policy forbids every request, inline handlers, eval and other scripts."""
    bundle = begin_bundle()
    style, script = _file("report.css"), _file("report.js")
    page = _templates().get_template("report.html.j2")
    themes = {"light": config(), "dark": config(dark=True)}
    values = {"report": report, "style": Markup(style), "script": Markup(script), "themes": themes}
    drawing = bundle.result()
    return page.render(**values, bundle=Markup(drawing), policy=_policy(drawing, script, style))


def render_chart(chart: Chart) -> str:
    """A page that holds one chart, live and at its own size, in the reader's colours; it loads nothing either."""
    bundle, style, script = begin_bundle(), _file("chart.css"), _file("chart.js")
    values = {"chart": chart, "style": Markup(style), "script": Markup(script)}
    values["specs"] = {"light": chart.to_dict(), "dark": {"config": config(dark=True)}}
    drawing = bundle.result()
    page = _templates().get_template("chart.html.j2")
    return page.render(**values, bundle=Markup(drawing), policy=_policy(drawing, script, style))


def save_chart_page(chart: Chart, path: Path | str) -> Path:
    """Write `render_chart` to a file that any browser opens offline. Raises RunError when the disk refuses."""
    write_bytes(Path(path), render_chart(chart).encode())
    return Path(path)


def table_html(rows: Sequence[SummaryRow]) -> str:
    """The summary table alone, for a notebook, which has its own style."""
    return _templates().get_template("table.html.j2").render(rows=rows)


def data_block(value: Any) -> Markup:
    """JSON that is safe inside a `<script type="application/json">`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.encode("utf-8", "backslashreplace").decode().translate(UNSAFE))


def _policy(bundle: str, script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(bundle)} {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["data_block"] = data_block
    templates.globals.update(spark_path=spark_path, spark_area=spark_area, spark_box=f"0 0 {WIDTH} {HEIGHT}")
    return templates
