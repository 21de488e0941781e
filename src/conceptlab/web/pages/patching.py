"""The patching panel: pick two prompts, see where the answer's difference lives, and follow one patch downstream.

`/panel/patching` holds the form (a page of its own when opened alone), `/panel/patching/map` the map, `/panel/patching/downstream`
one cell of it. Each address is its own permalink and JSON twin.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from conceptlab.web.desk import Desk
from conceptlab.web.job import Job
from conceptlab.web.live.pair_tasks import PairAsked, pair_tasks
from conceptlab.web.live.patching_map import SITES, Cell, MapAsked, downstream, patching_map
from conceptlab.web.pages import asking
from conceptlab.web.panels import panel
from conceptlab.web.view import View

DIRECTIONS = ("denoising", "noising")
KEPT = ("prompt", "corrupted", "answer", "distractor", "task", "place", "direction", "pseed")


def pair_of(query: Mapping[str, str]) -> PairAsked:
    """The pair, or the task, of an address."""
    names = {
        "prompt": "clean",
        "corrupted": "corrupted",
        "answer": "answer",
        "distractor": "distractor",
        "task": "task",
    }
    return PairAsked(**{field: asking.text(query, name) for name, field in names.items()})


def map_of(query: Mapping[str, str]) -> MapAsked:
    """The map of an address. Raises InputError for what is not known."""
    place, direction = asking.choice(query, "place", tuple(SITES)), asking.choice(query, "direction", DIRECTIONS)
    return MapAsked(pair_of(query), place, direction, asking.whole(query, "pseed", 0))  # type: ignore[arg-type]


def cell_of(query: Mapping[str, str]) -> Cell:
    """The cell of an address, written `2.4`: layer 2, token (or head) 4. Raises InputError."""
    layer, _, at = query.get("cell", "0.0").partition(".")
    parts = {"layer": layer, "at": at}
    return Cell(asking.whole(parts, "layer", 0, high=10_000), asking.whole(parts, "at", 0))


def kept_query(query: Mapping[str, str]) -> str:
    """The part of an address that says what is patched."""
    return urlencode([(name, query[name]) for name in KEPT if query.get(name)])


async def form(request: Request) -> Response:
    """The form, with the tasks that this model can read, and the map where a pair is given."""
    desk: Desk = request.app.state.desk
    query, live = request.query_params, desk.model()
    asked = map_of(query)
    job = desk.jobs.submit(
        "Pairs that this model can read", lambda: pair_tasks(live.model), key=("pair tasks", live.name), short=True
    )

    def made(tasks: dict[str, Any]) -> View:
        rows = {
            name: [pairs.clean[0], pairs.corrupted[0], pairs.answer[0], pairs.distractor[0], len(pairs.clean)]
            for name, pairs in tasks.items()
        }
        content = {
            "asked": asked, "tasks": rows, "run": asked.pair.complete and bool(asked.pair.task or asked.pair.corrupted),
            "kept": kept_query(query), "cell": query.get("cell", ""),
        }  # fmt: skip
        return View("patching.html.j2", "Patching", content)

    return await panel(request, job, made)


async def patched(request: Request) -> Response:
    """The map."""
    desk: Desk = request.app.state.desk
    query = request.query_params
    kept, cell = kept_query(query), query.get("cell", "")
    return await panel(
        request,
        map_job(desk, query),
        lambda found: View("patching_map.html.j2", "Patching map", {"map": found, "kept": kept, "cell": cell}),
    )


def map_job(desk: Desk, query: Mapping[str, str]) -> Job:
    """The job of a map."""
    live, asked = desk.model(), map_of(query)

    def work() -> Any:
        return (yield from patching_map(live.model, asked))

    return desk.jobs.submit("Patching map", work, key=("patching", live.name, asked))


async def one_cell(request: Request) -> Response:
    """One patch followed downstream."""
    desk: Desk = request.app.state.desk
    live, asked, cell = desk.model(), map_of(request.query_params), cell_of(request.query_params)

    def work() -> Any:
        return (yield from downstream(live.model, asked, cell))

    job = desk.jobs.submit("Downstream of one patch", work, key=("downstream", live.name, asked, cell), short=True)
    return await panel(request, job, lambda found: View("patching_cell.html.j2", "Downstream", {"cell": found}))
