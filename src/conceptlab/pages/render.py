"""Content to HTML: Jinja2 with everything escaped, one style, two scripts, and a content-security policy by their hashes."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from conceptlab.pages.bundle import begin_bundle
from conceptlab.pages.content import Report, SummaryRow
from conceptlab.pages.templates import asset, templates, themes
from conceptlab.plot import Chart
from conceptlab.plot.theme import config
from conceptlab.results.saving import write_bytes


def render_report(report: Report) -> str:
    """The whole page. It loads nothing: the policy forbids every request, inline handlers, eval and other scripts."""
    bundle = begin_bundle()
    style, script = asset("base.css") + asset("report.css"), asset("figures.js") + asset("report.js")
    page = templates().get_template("report.html.j2")
    values = {"report": report, "style": Markup(style), "script": Markup(script), "themes": themes()}
    drawing = bundle.result()
    return page.render(**values, bundle=Markup(drawing), policy=_policy(drawing, script, style))


def render_chart(chart: Chart) -> str:
    """A page that holds one chart, live and at its own size, in the reader's colours; it loads nothing either."""
    bundle, style, script = begin_bundle(), asset("chart.css"), asset("chart.js")
    values = {"chart": chart, "style": Markup(style), "script": Markup(script)}
    values["specs"] = {"light": chart.to_dict(), "dark": {"config": config(dark=True)}}
    drawing = bundle.result()
    page = templates().get_template("chart.html.j2")
    return page.render(**values, bundle=Markup(drawing), policy=_policy(drawing, script, style))


def save_chart_page(chart: Chart, path: Path | str) -> Path:
    """Write `render_chart` to a file that any browser opens offline. Raises RunError when the disk refuses."""
    write_bytes(Path(path), render_chart(chart).encode())
    return Path(path)


def table_html(rows: Sequence[SummaryRow]) -> str:
    """The summary table alone, for a notebook, which has its own style."""
    return templates().get_template("table.html.j2").render(rows=rows)


def _policy(bundle: str, script: str, style: str) -> str:
    return (
        f"default-src 'none'; script-src {_hash(bundle)} {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
