"""The page of a circuit: a graph with a threshold, pins and groups that are kept, and the edges beside their random control.

`/circuit?circuit=ID` shows one that `conceptlab explain` wrote; `/circuit?task=…` or a pair of prompts has one found, as a job.
"""

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.errors import ConceptlabError
from conceptlab.web.desk import Desk
from conceptlab.web.job import Job
from conceptlab.web.live.circuit import CircuitAsked, circuit_card, found_circuit
from conceptlab.web.pages import asking
from conceptlab.web.pages.patching import kept_query, pair_of
from conceptlab.web.pages.steer import sizes_of
from conceptlab.web.panels import panel
from conceptlab.web.view import View, answer

MOST_EXACT = 300


async def circuit(request: Request) -> Response:
    """The page: a list of those there are, and the chosen one."""
    desk: Desk = request.app.state.desk
    query = request.query_params
    id, pair = query.get("circuit", ""), pair_of(query)
    listed = [
        {
            "id": known.id,
            "metric": known.circuit.metric,
            "n": len(known.circuit),
            "model": known.circuit.provenance.model,
        }
        for known in desk.explained.values()
    ]
    content: dict[str, Any] = {
        "listed": listed,
        "id": id,
        "graph": None,
        "notes": None,
        "live": "",
        "unread": dict(desk.broken),
    }
    if id:
        content |= _saved(desk, id)
    elif pair.complete:
        asked = circuit_of(query)
        content["live"] = f"/panel/circuit?{kept_query(query)}&exact={asked.n_exact}"
        if query.get("as") in ("json", "file"):
            return await panel(request, _job(desk, asked), lambda card: _page({**content, **_graph(desk, card)}))
    elif listed and not query.get("prompt"):
        content |= _saved(desk, listed[0]["id"])
    return answer(request, _page(content))


async def found(request: Request) -> Response:
    """The panel of a circuit that is found for a pair."""
    desk: Desk = request.app.state.desk
    job = _job(desk, circuit_of(request.query_params))
    return await panel(request, job, lambda card: View("circuit_graph.html.j2", "Circuit", _graph(desk, card)))


def circuit_of(query: Mapping[str, str]) -> CircuitAsked:
    """What is to be found. Raises InputError for what makes no sense."""
    return CircuitAsked(
        pair_of(query), asking.whole(query, "exact", 30, 1, MOST_EXACT), asking.whole(query, "pseed", 0)
    )


def _page(content: Mapping[str, Any]) -> View:
    return View("circuit.html.j2", "Circuit", content)


def _job(desk: Desk, asked: CircuitAsked) -> Job:
    live = desk.model()

    def work() -> Any:
        return (yield from found_circuit(live.model, asked))

    return desk.jobs.submit("Finding the circuit", work, key=("circuit", live.name, asked))


def _saved(desk: Desk, id: str) -> dict[str, Any]:
    """The graph of a folder. Raises a 404 for an unknown id."""
    known = desk.explained.get(id)
    if known is None:
        raise HTTPException(404, f"there is no circuit {id[:60]!r}; there are {', '.join(desk.explained) or 'none'}")
    return {"id": id, **_graph(desk, circuit_card(known.circuit, id, id, known.record))}


def _graph(desk: Desk, card: dict[str, Any]) -> dict[str, Any]:
    """A graph with what was written on it."""
    if not _same_shape(desk, card):  # a unit's page is that of the open model
        card = {**card, "nodes": [{**node, "unit": ""} for node in card["nodes"]]}
    notes, said = None, ""
    if desk.notes is not None:
        try:
            notes = desk.notes.get("circuit", card["id"])
        except ConceptlabError as error:
            said = str(error)
    return {"graph": card, "notes": notes, "notes_said": said, "keeps": desk.notes is not None}


def _same_shape(desk: Desk, card: Mapping[str, Any]) -> bool:
    """Whether the circuit may be one of the open model, as far as layers and heads say."""
    return list(sizes_of(desk).values())[:2] == card["shape"]
