"""Home: the model at a glance. Every concept at every layer, the same in words, what was run, and the literature."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.atlas.overview import CURVES
from conceptlab.atlas.table import summary_row
from conceptlab.atlas.words import counted
from conceptlab.catalog import STATES
from conceptlab.errors import ConceptlabError, ResultError
from conceptlab.pages.content import SummaryRow
from conceptlab.plot.naming import visible
from conceptlab.web.atlas_shelf import AtlasShelf
from conceptlab.web.jobs import Said
from conceptlab.web.pages.asking import choice, text, whole
from conceptlab.web.pages.papers import all_rows
from conceptlab.web.panels import panel
from conceptlab.web.view import View, answer, with_query

ON_ONE_PAGE, PAGE = 200, 50  # rows of the summary: all of them up to here, else so many a page
RECENT = 12
SORTS = {
    "depth": "found first, early ones first",
    "score": "most above its control first",
    "effect": "largest effect first",
    "name": "by name",
    "order": "as in the atlas",
}


async def home(request: Request) -> Response:
    """The first page. Without an atlas it says what can be done with what is there."""
    return answer(request, await run_in_threadpool(home_view, request.app.state.desk, request.query_params))


async def overview(request: Request) -> Response:
    """The map of concepts x layers; an atlas that was written without an overview is read concept by concept first."""
    desk, query = request.app.state.desk, request.query_params
    shelf = desk.atlas(query.get("atlas"))
    if shelf.said or await run_in_threadpool(lambda: shelf.overview) is not None:
        return answer(request, View("heat.html.j2", "Concepts by layer", {"heat": heat(shelf)}, arrays(shelf)))

    def work():  # noqa: ANN202 - a generator of the engine
        for done, total in shelf.gather():
            yield Said(done / total, f"concept {done} of {total} is read; this atlas was written without an overview")

    job = desk.jobs.submit("Reading the atlas", work, key=("overview", shelf.id), short=False, keep=True)
    made = lambda _: View("heat.html.j2", "Concepts by layer", {"heat": heat(shelf)}, arrays(shelf))  # noqa: E731
    return await panel(request, job, made)


async def concept_table(request: Request) -> Response:
    """The summary table, sorted, searched and paged."""
    desk, query = request.app.state.desk, request.query_params
    shelf = desk.atlas(query.get("atlas"))
    content = {"table": await run_in_threadpool(table, shelf, query), "atlas": {"id": shelf.id}}
    return answer(request, View("concepts.html.j2", "Concepts", content))


def home_view(desk: Any, query: Mapping[str, str]) -> View:
    """What Home shows."""
    content: dict[str, Any] = {
        "atlases": [card(shelf) for shelf in desk.atlases.values()],
        "atlas": None,
        "recent": recent(desk),
        "broken": dict(desk.broken),
        "literature": literature(),
        "sorts": SORTS,
    }
    title = "Home"
    if desk.atlases:
        shelf = desk.atlas(query.get("atlas"))
        title = visible(shelf.model_name, 80)
        content |= {"atlas": at_a_glance(shelf), "heat": heat(shelf) if not shelf.said else None}
        content |= {"table": table(shelf, query) if not shelf.said else None}
    return View("home.html.j2", title, content)


def card(shelf: AtlasShelf) -> dict[str, Any]:
    """One atlas of the list."""
    return {
        "id": shelf.id, "name": shelf.name, "model": shelf.model_name, "n": len(shelf.concepts),
        "written": moment(shelf.written), "said": shelf.said, "revision": str(shelf.model.get("revision", ""))[:16],
    }  # fmt: skip


def at_a_glance(shelf: AtlasShelf) -> dict[str, Any]:
    """The model, its numbers, and one paragraph over all concepts."""
    words = {"n_layers": "layers", "n_heads": "heads a layer", "d_model": "d_model", "d_mlp": "neurons a layer"}
    facts = {word: shelf.model[key] for key, word in words.items() if shelf.model.get(key)}
    facts |= {"concepts": len(shelf.concepts), "texts": shelf.provenance.n}
    geometry = None if shelf.said else shelf.geometry
    return {
        **card(shelf), "facts": facts, "lede": lede(shelf),
        "seconds": shelf.seconds, "warnings": list(shelf.provenance.warnings),
        "cosines": geometry is not None, "broken": {k: v for k, v in shelf.broken.items() if k != "manifest"},
    }  # fmt: skip


def lede(shelf: AtlasShelf) -> str:
    """How many concepts can be read, and of how many a change does more than a random one."""
    if shelf.said or shelf.overview is None:
        return ""
    data = shelf.overview.data
    found = data["found"].values
    measured = np.isfinite(data["effect"].values[found]).any()
    used = int((data["used"].values & found).sum()) if measured else None
    return counted(shelf.model_name, len(found), int(found.sum()), used)


def heat(shelf: AtlasShelf) -> dict[str, Any]:
    """What the map needs besides its numbers: names, verdicts, the orders of its rows, and where the numbers are."""
    waiting = {"ready": False, "url": with_query("/overview", atlas=shelf.id)}
    if shelf.overview is None:
        return waiting | {"n": len(shelf.concepts)}
    data = shelf.overview.data
    entries = list(shelf.concepts.values())
    columns = {
        name: data[name].values for name in ("found", "used", "best", "q", "settled", "effect", "effect_control")
    }
    concepts = [
        {
            "id": entry.id,
            "name": visible(entry.name, 60),
            **{name: number(values[i]) for name, values in columns.items()},
        }
        for i, entry in enumerate(entries)
    ]
    return waiting | {
        "ready": True, "n": len(entries), "atlas": shelf.id, "layers": [str(v) for v in data["layer"].values],
        "concepts": concepts, "orders": {sort: order(shelf, sort) for sort in SORTS}, "curves": list(CURVES),
        "broken": shelf.broken.get("overview", ""),
    }  # fmt: skip


def arrays(shelf: AtlasShelf) -> dict[str, np.ndarray]:
    """`curves` [score low high control, concept, layer]."""
    if shelf.overview is None:
        return {}
    return {"curves": np.stack([shelf.overview[name].values for name in CURVES]).astype(np.float64)}


def order(shelf: AtlasShelf, sort: str) -> list[int]:
    """Positions of the concepts in the order of one of SORTS."""
    names = [entry.name for entry in shelf.concepts.values()]
    if sort == "name" or shelf.overview is None:
        return (
            sorted(range(len(names)), key=lambda i: names[i].casefold()) if sort == "name" else list(range(len(names)))
        )
    data = shelf.overview.data
    above = data["score"].values - data["control"].values
    best = np.where(np.isfinite(above), above, -np.inf).max(1, initial=-np.inf)
    at = np.where(np.isfinite(data["settled"].values), data["settled"].values, data["jump"].values)
    keys = {
        "depth": (np.nan_to_num(at, nan=np.inf), ~data["found"].values),
        "score": (-best,),
        "effect": (-np.nan_to_num(data["effect"].values, nan=-np.inf),),
        "order": (np.arange(len(names)),),
    }
    return np.lexsort(keys[sort]).tolist()


def table(shelf: AtlasShelf, query: Mapping[str, str]) -> dict[str, Any]:
    """Rows of the summary: those that hold what is searched, in the asked order, a page of them."""
    sort, find, entries = choice(query, "sort", list(SORTS)), text(query, "find"), list(shelf.concepts.values())
    kept = [i for i in order(shelf, sort) if find.casefold() in entries[i].name.casefold()]
    size = ON_ONE_PAGE if len(kept) <= ON_ONE_PAGE else PAGE
    pages = max(1, math.ceil(len(kept) / size))
    page = min(whole(query, "page", 1, low=1), pages)
    rows, broken = [], {}
    for i in kept[(page - 1) * size : page * size]:
        try:
            rows.append(row_of(shelf, i))
        except ConceptlabError as error:
            broken[entries[i].name] = str(error)
    return {
        "rows": rows, "broken": broken, "n": len(kept), "total": len(entries), "page": page, "pages": pages,
        "first": (page - 1) * size + 1, "sort": sort, "find": find,
    }  # fmt: skip


def row_of(shelf: AtlasShelf, at: int) -> SummaryRow:
    """One row, with the curve of the overview: no part of the concept is read. Raises ResultError for a damaged record."""
    entry = list(shelf.concepts.values())[at]
    data = None if shelf.overview is None else shelf.overview.data
    curve = {
        name: SimpleNamespace(values=np.zeros(0) if data is None else data[name].values[at])
        for name in ("score", "control")
    }
    try:
        row = summary_row(SimpleNamespace(**shelf.values(entry.id), depth=curve))  # type: ignore[arg-type]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ResultError(f"{entry.id} holds no concept of an atlas ({error!r}); run it again") from error
    return replace(row, anchor=entry.id)


def recent(desk: Any) -> list[dict[str, Any]]:
    """What was run, the newest first: atlases, rankings, circuits."""
    made = [
        {"kind": "atlas", "name": s.name, "model": s.model_name, "when": moment(s.written),
         "said": s.said or f"{len(s.concepts):,} concepts", "href": with_query("/", atlas=s.id)}
        for s in desk.atlases.values()
    ]  # fmt: skip
    for finding in desk.findings.values():
        n = sum(int(said.get("found", 0)) for said in finding.detectors.values())
        names = ", ".join(list(finding.detectors)[:4])
        more = f" and {len(finding.detectors) - 4} more" if len(finding.detectors) > 4 else ""
        made.append(
            {"kind": f"{finding.kind}s", "name": finding.folder.name, "model": finding.model, "when": seconds(finding.written),
             "said": f"{n:,} found by {names}{more}", "href": _unit(finding)}
        )  # fmt: skip
    for explained in desk.explained.values():
        circuit = explained.circuit
        made.append(
            {"kind": "circuit", "name": explained.folder.name, "model": circuit.provenance.model,
             "when": seconds(explained.written), "said": f"{len(circuit):,} edges between {len(circuit.nodes):,} parts",
             "href": with_query("/prompt", circuit=explained.id)}
        )  # fmt: skip
    return sorted(made, key=lambda run: run["when"], reverse=True)[:RECENT]


def _unit(finding: Any) -> str:
    """The page of the best unit that was found."""
    for said in finding.detectors.values():
        best = said.get("best") or []
        layer, _, unit = str(best[0].get("unit", "")).partition(".") if best else ("", "", "")
        if layer[:1] == "L" and layer[1:].isdecimal() and unit[1:].isdecimal():
            return with_query("/unit", layer=layer[1:], **{"head" if unit[0] == "H" else "neuron": unit[1:]})
    return "/unit"


def literature() -> dict[str, Any]:
    """The published systems by family and state."""
    families = sorted({row.family for row in all_rows()})
    counts = {family: Counter(row.state for row in all_rows() if row.family == family) for family in families}
    ordered = sorted(families, key=lambda family: (-counts[family][STATES[0]], -sum(counts[family].values()), family))
    total = Counter(row.state for row in all_rows())
    return {
        "n": len(all_rows()),
        "states": {state: total[state] for state in STATES},
        "families": [{"family": f, "n": sum(counts[f].values()), **{s: counts[f][s] for s in STATES}} for f in ordered],
    }


def moment(iso: str) -> str:
    """A time of the manifest, to the minute."""
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return ""


def seconds(value: float) -> str:
    """A time of the file system, to the minute."""
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M")


def number(value: Any) -> Any:
    """A numpy scalar as JSON has it."""
    plain = value.item()
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
