"""Which page answers which address. A page takes a request and gives a response (see `view.answer` and `panels.panel`)."""

from collections.abc import Callable
from typing import Any

from conceptlab.web.pages import home, status, steer

GET = ["GET"]

PAGES: tuple[tuple[str, Callable[..., Any], list[str]], ...] = (
    ("/live", status.live, GET),
    ("/", home.home, GET),
    ("/overview", home.overview, GET),
    ("/concepts", home.concept_table, GET),
    ("/steer", steer.steer, GET),
    ("/stream/steer", steer.stream, GET),
)
