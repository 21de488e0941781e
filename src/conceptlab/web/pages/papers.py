"""The literature: the published systems, what of them runs here, what we measured beside its control, and how to run it."""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.catalog import STATES, Paper, papers
from conceptlab.catalog.numbers import numbers
from conceptlab.web.pages.asking import choice, text
from conceptlab.web.view import View, answer

MEANING = {
    "works": "a recipe runs it again",
    "method": "no recipe yet; its method runs",
    "planned": "not built yet",
}


async def page(request: Request) -> Response:
    """All rows, filtered, or one of them (`id`)."""
    return answer(request, await run_in_threadpool(papers_view, request.query_params))


@lru_cache(maxsize=1)
def all_rows() -> tuple[Paper, ...]:
    """All rows. Recipes do not change while the server runs, and finding them reads every recipe's file."""
    return tuple(papers())


def papers_view(query: Mapping[str, str]) -> View:
    """The list or one row. Raises a 404 for an unknown id."""
    if query.get("id"):
        found = next((row for row in all_rows() if row.id == query["id"]), None)
        if found is None:
            raise HTTPException(404, f"no published system {query['id'][:60]!r}; the page Papers lists them")
        return View("paper.html.j2", found.title, {"paper": record(found), "meaning": MEANING[found.state]})
    families = sorted({row.family for row in all_rows()})
    family, state = choice(query, "family", ["", *families]), choice(query, "state", ["", *STATES])
    find = text(query, "find").casefold()
    kept = [
        row for row in all_rows()
        if family in ("", row.family) and state in ("", row.state) and find in f"{row.id} {row.title} {row.claim}".casefold()
    ]  # fmt: skip
    kept.sort(key=lambda row: STATES.index(row.state))
    counts = Counter(row.state for row in all_rows())
    content = {
        "papers": [record(row) for row in kept], "total": len(all_rows()), "counts": {s: counts[s] for s in STATES},
        "meaning": MEANING, "families": families, "family": family, "state": state, "find": text(query, "find"),
    }  # fmt: skip
    return View("papers.html.j2", "The literature", content)


def record(row: Paper) -> dict[str, Any]:
    """One row with what was measured, if `make rows` has run it."""
    return {**row.to_record(), "measured": numbers().get(row.id)}
