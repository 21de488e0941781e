"""One concept: where it can be read and how sure that is, which parts carry it, whether the model uses it, and its texts."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.atlas.figures import concept_figures
from conceptlab.atlas.saving import PARTS
from conceptlab.atlas.words import findings
from conceptlab.plot.naming import metric_name, visible
from conceptlab.plot.relations import relation_chart
from conceptlab.web.atlas_shelf import AtlasShelf, ConceptEntry
from conceptlab.web.drawn import kept
from conceptlab.web.live.examples import Examples, examples
from conceptlab.web.live.nearest_tokens import NearestTokens, nearest_tokens
from conceptlab.web.live.one_pass import shown_token
from conceptlab.web.pages.asking import choice, text, whole
from conceptlab.web.panels import panel
from conceptlab.web.view import View, answer

if TYPE_CHECKING:
    from conceptlab.atlas.atlas import ConceptMap
    from conceptlab.plot import Chart
    from conceptlab.results import Units

TOP, PAGE, LEVELS = 8, 50, 5
ORDERS = {"high": "highest readout first", "low": "lowest readout first", "file": "as in the file"}
AT_A_LAYER = {
    "score": "score", "low": "95 % interval from", "high": "95 % interval to", "control": "shuffled labels, mean",
    "control_high": "shuffled labels, 95 %", "control_task": "control task", "selectivity": "selectivity",
    "noised": "with noised input", "quantised": "with int8 weights", "compression": "compression (MDL)",
    "compression_control": "compression, shuffled labels",
}  # fmt: skip


async def concept(request: Request) -> Response:
    """The page of one concept; the first of the atlas where none is named."""
    desk, query = request.app.state.desk, request.query_params
    shelf = desk.atlas(query.get("atlas"))
    linked = query.get("as") != "file"
    return answer(request, await run_in_threadpool(concept_view, desk, shelf, query, linked=linked))


async def tokens(request: Request) -> Response:
    """The tokens that the direction speaks for; needs the live model."""
    desk = request.app.state.desk
    live, shelf, entry, made = await _asked(request)
    direction = made.direction
    if direction is None or not direction.exists:
        return answer(request, _cannot("Nearest tokens", no_direction(made)))
    key = ("nearest tokens", shelf.id, entry.id)
    job = desk.jobs.submit("Nearest tokens", lambda: nearest_tokens(live, direction), key=key, short=True)
    return await panel(request, job, lambda found: tokens_view(found, made))


async def texts(request: Request) -> Response:
    """The labelled texts with the readout of every token; needs the live model and the atlas's texts."""
    desk, query = request.app.state.desk, request.query_params
    live, shelf, entry, made = await _asked(request)
    labelled, why = await run_in_threadpool(desk.texts, shelf, entry.name)
    direction = made.direction
    if labelled is None or direction is None or not direction.exists:
        return answer(request, _cannot("Examples", why or no_direction(made)))
    work = lambda: examples(live, labelled, direction)  # noqa: E731 - what the engine does
    job = desk.jobs.submit("Reading the labelled texts", work, key=("examples", shelf.id, entry.id))
    return await panel(request, job, lambda found: examples_view(found, query, shelf, entry))


async def _asked(request: Request) -> "tuple[Any, AtlasShelf, ConceptEntry, ConceptMap]":
    desk, query = request.app.state.desk, request.query_params
    shelf = desk.atlas(query.get("atlas"))
    entry = entry_of(shelf, query.get("concept"))
    return desk.model(), shelf, entry, await run_in_threadpool(shelf.concept, entry.id)


def entry_of(shelf: AtlasShelf, id: str | None) -> ConceptEntry:
    """The concept of an id, or of a name; without one the first. Raises a 404 for others."""
    if shelf.said or not shelf.concepts:
        raise HTTPException(404, f"the atlas {shelf.name[:60]} has no concept to show: {shelf.said or 'it is empty'}")
    if not id:
        return next(iter(shelf.concepts.values()))
    found = shelf.concepts.get(id) or next((e for e in shelf.concepts.values() if e.name == id), None)
    if found is None:
        raise HTTPException(404, f"the atlas {shelf.name[:60]} has no concept {id[:60]!r}; Home lists those it has")
    return found


def concept_view(desk: Any, shelf: AtlasShelf, query: Mapping[str, str], *, linked: bool) -> View:
    """What the page shows. Raises ResultError where the concept's own record is damaged."""
    entry = entry_of(shelf, query.get("concept"))
    made = shelf.concept(entry.id)
    layer = _layer(made, query.get("layer"))
    content: dict[str, Any] = {
        "atlas": {"id": shelf.id, "name": shelf.name, "model": shelf.model_name, "n": len(shelf.concepts)},
        "concept": {"id": entry.id, **{f.name: getattr(made, f.name) for f in fields(made) if f.name not in PARTS}},
        "metric": metric_name(made.metric),
        "findings": findings(made, len(shelf.concepts)),
        "broken": shelf.broken_parts(entry.id),
        "layer": layer,
        **kept(shelf, (entry.id, linked), made, lambda: _built(shelf, made, linked=linked)),
        "live": _live(desk, shelf, made),
        "steps": _steps(shelf, entry),
        "address_of": urlencode({"atlas": shelf.id, "concept": entry.id}),
    }
    return View("concept.html.j2", visible(entry.name, 60), content)


def _built(shelf: AtlasShelf, made: "ConceptMap", *, linked: bool) -> dict[str, Any]:
    """What takes long to build and depends on the concept alone."""
    return {
        "charts": charts(shelf, made, linked=linked), "heads": top_units(made.heads), "neurons": top_units(made.neurons),
        "conditions": conditions(made),
    }  # fmt: skip


def charts(shelf: AtlasShelf, made: "ConceptMap", *, linked: bool) -> "dict[str, Chart]":
    """The charts of what is there; marks of heads and neurons lead to their pages."""
    if made.depth is None:  # a broken part
        found = {k: v for k, v in concept_figures(replace(made, depth=_no_depth())).items() if k != "depth"}
    else:
        found = concept_figures(made)
    geometry = shelf.geometry if made.direction is None or made.direction.exists else None
    relation = None if geometry is None else relation_chart(geometry, made.name)
    if relation is not None:
        found["relations"] = relation
    if linked:
        found |= {
            kind: with_links(found[kind], f"/unit?{urlencode({'atlas': shelf.id})}", word)
            for kind, word in (("heads", "head"), ("neurons", "neuron"))
            if kind in found
        }
    return found


def with_links(chart: "Chart", address: str, unit: str) -> "Chart":
    """The chart with an address behind each mark that tells a unit."""
    url = {"calculate": f"'{address}&layer=' + datum.layer + '&{unit}=' + datum.index", "as": "unit_page"}
    layers = [
        {**layer, "encoding": {**layer["encoding"], "href": {"field": "unit_page", "type": "nominal"}}}
        if "tooltip" in layer["encoding"]
        else layer
        for layer in chart.body["layer"]
    ]
    return replace(chart, body={**chart.body, "transform": [url, *chart.body.get("transform", [])], "layer": layers})


def top_units(units: "Units | None") -> list[dict[str, Any]]:
    """The best few with their null, p and q."""
    if units is None:
        return []
    order = np.argsort(-units.table["score"].values, kind="stable")[:TOP]
    table = {str(name): column.values for name, column in units.table.variables.items()}
    letter = "H" if units.kind == "head" else "N"
    columns = ("score", "control", "p", "q")
    return [
        {"unit": f"L{int(table['layer'][i])}.{letter}{int(table['index'][i])}", "layer": int(table["layer"][i]),
         units.kind: int(table["index"][i]), **{c: float(table[c][i]) for c in columns},
         "found": bool(table["q"][i] <= 0.05)}
        for i in order.tolist()
    ]  # fmt: skip


def conditions(made: "ConceptMap") -> dict[str, Any]:
    """At the best layer: as it is, with noised input, with int8 weights; empty where that was not measured."""
    if made.depth is None:
        return {}
    data = made.depth.data
    labels = [str(v) for v in data["layer"].values]
    if made.best_layer not in labels:
        return {}
    at = labels.index(made.best_layer)
    names = {"score": "as it is", "noised": "noised input", "quantised": "int8 weights", "control": "shuffled labels"}
    found = {word: float(data[name].values[at]) for name, word in names.items() if name in data}
    known = {word: value for word, value in found.items() if math.isfinite(value)}
    return known if {"noised input", "int8 weights"} & set(known) else {}


def _layer(made: "ConceptMap", asked: str | None) -> dict[str, Any]:
    """The layers there are, the chosen one, and every number at it."""
    if made.depth is None:
        return {"chosen": None, "all": [], "numbers": {}}
    data = made.depth.data
    labels = [str(v) for v in data["layer"].values]
    chosen = asked if asked in labels else made.best_layer if made.best_layer in labels else labels[0]
    at = labels.index(chosen)
    numbers = {word: float(data[name].values[at]) for name, word in AT_A_LAYER.items() if name in data}
    return {
        "chosen": chosen, "all": labels, "best": made.best_layer,
        "numbers": {word: value for word, value in numbers.items() if math.isfinite(value)},
    }  # fmt: skip


def _live(desk: Any, shelf: AtlasShelf, made: "ConceptMap") -> dict[str, str]:
    """What the live panels need and do not have, in a sentence each."""
    no_model = (
        ""
        if desk.live is not None
        else "this needs the live model, and the viewer was started without one (--no-model)"
    )
    no_direction = "" if made.direction is not None else "this atlas holds no direction of the concept that can be read"
    _, no_texts = desk.texts(shelf, made.name) if not no_model else (None, "")
    return {"tokens": no_model or no_direction, "texts": no_model or no_direction or no_texts}


def _steps(shelf: AtlasShelf, entry: ConceptEntry) -> dict[str, Any]:
    """The concepts before and after this one in the atlas."""
    ids = list(shelf.concepts)
    at = ids.index(entry.id)
    before, after = (ids[i] if 0 <= i < len(ids) else None for i in (at - 1, at + 1))
    name = {i: visible(shelf.concepts[i].name, 40) for i in (before, after) if i}
    card = lambda i: {"id": i, "name": name[i]} if i else None  # noqa: E731
    return {"before": card(before), "after": card(after), "at": at + 1, "of": len(ids)}


def tokens_view(found: NearestTokens, made: "ConceptMap") -> View:
    """Both sides of the direction."""
    sides = [
        {
            "towards": end, "p": found.p[i],
            "tokens": [{"text": str(t), "shown": shown_token(str(t)), "score": float(s), "beyond": bool(s > found.control_high)}
                       for t, s in zip(found.tokens[i], found.scores[i], strict=True)],
        }
        for i, end in enumerate(ends(made))
    ]  # fmt: skip
    content = {"sides": sides, "control": found.control, "control_high": found.control_high, "n_tokens": found.n_tokens}
    return View("nearest_tokens.html.j2", "Nearest tokens", content)


def ends(made: "ConceptMap") -> tuple[str, str]:
    """What lies along the direction and against it, in words."""
    points = made.direction.class_points[:, 0].tolist() if made.direction is not None else []
    names = made.class_names
    if len(points) != len(names) or not names:
        return "along the direction (higher)", "against it (lower)"
    order = np.argsort(points)
    return f"towards “{visible(names[order[-1]], 30)}”", f"towards “{visible(names[order[0]], 30)}”"


def examples_view(found: Examples, query: Mapping[str, str], shelf: AtlasShelf, entry: ConceptEntry) -> View:
    """The texts that hold what is searched and have the asked label, in the asked order, a page of them."""
    order, find, label = choice(query, "order", list(ORDERS)), text(query, "find"), text(query, "label")
    kept = [
        i
        for i, words in enumerate(found.texts)
        if find.casefold() in words.casefold() and label in ("", found.labels[i])
    ]
    readout = found.readout
    if order != "file":
        kept.sort(key=lambda i: -readout[i] if order == "high" else readout[i])
    pages = max(1, math.ceil(len(kept) / PAGE))
    page = min(whole(query, "page", 1, low=1), pages)
    largest = max(float(np.quantile(np.abs(np.concatenate(found.values)), 0.98)), 1e-9)
    rows = [_example(found, i, largest) for i in kept[(page - 1) * PAGE : page * PAGE]]
    content = {
        "rows": rows, "n": len(kept), "read": len(found.rows), "total": found.total, "page": page, "pages": pages, "order": order,
        "find": find, "label": label, "labels": sorted(set(found.labels)) if len(set(found.labels)) <= 30 else [],
        "orders": ORDERS, "unit": found.unit, "r": found.r, "r_control": found.r_control, "largest": largest,
        "atlas": {"id": shelf.id}, "concept": {"id": entry.id},
        "address_of": urlencode({"atlas": shelf.id, "concept": entry.id, "order": order, "find": find, "label": label}),
    }  # fmt: skip
    return View("examples.html.j2", "Examples", content)


def _example(found: Examples, i: int, largest: float) -> dict[str, Any]:
    values = found.values[i].astype(float).tolist()
    level = [max(-LEVELS, min(LEVELS, round(LEVELS * v / largest))) for v in values]
    tokens = [
        {"text": t, "shown": shown_token(t), "value": v, "level": at}
        for t, v, at in zip(found.tokens[i], values, level, strict=True)
    ]
    return {
        "row": found.rows[i], "label": found.labels[i], "readout": values[found.at[i]], "read_at": found.at[i],
        "tokens": tokens, "text": found.texts[i],
    }  # fmt: skip


def no_direction(made: "ConceptMap") -> str:
    """Why there is nothing along the concept's direction, and where there may be something."""
    if made.direction is None:
        return "this atlas holds no direction of the concept that can be read"
    if made.depth is None:
        return f"there is no direction at {made.direction.site}: the labels do not differ there"
    found = made.depth.data
    beats = found["low"].values > found["control"].values
    above = [str(layer) for layer, beat in zip(found["layer"].values, beats, strict=True) if beat]
    where = (
        f"its score beats the control in layer {', '.join(above)}"
        if above
        else "its score beats the control in no layer"
    )
    return f"there is no direction at {made.direction.site}, where the labels do not differ; {where}"


def _cannot(title: str, why: str) -> View:
    return View("cannot.html.j2", title, {"why": why})


def _no_depth() -> Any:
    """A curve of nothing, in the place of a broken one."""
    import xarray as xr

    from conceptlab.results import Scores
    from conceptlab.web.atlas_shelf import NO_DATA

    return Scores(xr.Dataset({n: ("layer", [0.0]) for n in ("score", "control")}, coords={"layer": ["embed"]}), NO_DATA)
