"""Which page answers which address. A page takes a request and gives a response (see `view.answer` and `panels.panel`)."""

from collections.abc import Callable
from typing import Any

from conceptlab.web.pages import (
    circuit,
    compare,
    concept,
    home,
    notes,
    papers,
    patching,
    prompt,
    status,
    steer,
    unit,
    work,
)

GET = ["GET"]

PAGES: tuple[tuple[str, Callable[..., Any], list[str]], ...] = (
    ("/live", status.live, GET),
    ("/jobs/{id}/cancel", work.cancel, ["POST"]),
    ("/notes/{kind}/{id:path}", notes.note, ["GET", "PUT"]),
    ("/", home.home, GET),
    ("/overview", home.overview, GET),
    ("/concepts", home.concept_table, GET),
    ("/concept", concept.concept, GET),
    ("/concept/tokens", concept.tokens, GET),
    ("/concept/texts", concept.texts, GET),
    ("/compare", compare.compare, GET),
    ("/papers", papers.page, GET),
    ("/prompt", prompt.prompt, GET),
    ("/panel/readouts", prompt.readouts_panel, GET),
    ("/panel/lens", prompt.lens_panel, GET),
    ("/panel/attention", prompt.attention_panel, GET),
    ("/panel/head", prompt.head_panel, GET),
    ("/panel/contributions", prompt.contributions_panel, GET),
    ("/steer", steer.steer, GET),
    ("/stream/steer", steer.stream, GET),
    ("/unit", unit.unit, GET),
    ("/panel/unit/weights", unit.weights, GET),
    ("/panel/unit/texts", unit.texts, GET),
    ("/panel/unit/detectors", unit.detectors, GET),
    ("/circuit", circuit.circuit, GET),
    ("/panel/circuit", circuit.found, GET),
    ("/panel/patching", patching.form, GET),
    ("/panel/patching/map", patching.patched, GET),
    ("/panel/patching/downstream", patching.one_cell, GET),
)
