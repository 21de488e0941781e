"""HTML that stands alone: templates, style and script, and the one bundle that draws the charts."""

from conceptlab.pages.content import Figure, Note, Report, Section, SummaryRow
from conceptlab.pages.render import render_chart, render_report, save_chart_page, table_html

__all__ = [
    "Figure",
    "Note",
    "Report",
    "Section",
    "SummaryRow",
    "render_chart",
    "render_report",
    "save_chart_page",
    "table_html",
]
