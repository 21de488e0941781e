"""How an atlas and a concept show themselves in a notebook: a table and a chart, offline, text always."""

import base64
import html
from typing import TYPE_CHECKING, Any

from conceptlab.atlas.figures import atlas_figures, concept_figures
from conceptlab.atlas.table import summary_rows, terminal_table
from conceptlab.atlas.words import findings
from conceptlab.pages import table_html
from conceptlab.plot.export import svg

if TYPE_CHECKING:
    from rich.table import Table

    from conceptlab.atlas.atlas import Atlas, ConceptMap
    from conceptlab.plot import Chart


def atlas_bundle(atlas: "Atlas") -> dict[str, Any]:
    """The summary table as HTML and text, above the depth map as a picture."""
    pictures = [_picture(chart) for chart in atlas_figures(atlas).values()]
    table = table_html(summary_rows(atlas)) + "".join(pictures)
    return {"text/plain": as_text(terminal_table(atlas)), "text/html": table}


def concept_bundle(concept: "ConceptMap") -> dict[str, Any]:
    """The depth curve, with the sentences of the report as text."""
    return {
        **concept_figures(concept)["depth"]._repr_mimebundle_(),
        "text/plain": "\n".join(findings(concept, 1).values()),
    }


def as_text(table: "Table", width: int = 160) -> str:
    """A rich table as plain text."""
    from rich.console import Console

    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def _picture(chart: "Chart") -> str:
    """An image that stands alone: inside an `img` nothing of an SVG can act on the notebook."""
    data = base64.b64encode(svg(chart).encode()).decode()
    return f'<img alt="{html.escape(chart.says)}" src="data:image/svg+xml;base64,{data}">'
