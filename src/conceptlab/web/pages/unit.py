"""The page of one head or neuron: what every detector said of it, its weights in words, its texts, its share in circuits.

`/unit?layer=2&head=1` or `/unit?layer=2&neuron=7`. The panels below `/panel/unit/` run the live model as jobs.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.errors import InputError
from conceptlab.find.detector import Found
from conceptlab.model import Model
from conceptlab.web.desk import Desk
from conceptlab.web.jobs import Said, job_progress
from conceptlab.web.live.unit_texts import unit_texts
from conceptlab.web.live.unit_weights import Unit, unit_weights
from conceptlab.web.pages import asking
from conceptlab.web.pages.steer import sizes_of
from conceptlab.web.pages.unit_records import circuits_of, picks, place_of, said_of
from conceptlab.web.panels import panel
from conceptlab.web.view import View, answer


async def unit(request: Request) -> Response:
    """The page; without a unit the first one that the atlas names."""
    desk: Desk = request.app.state.desk
    return answer(request, await run_in_threadpool(unit_view, desk, request.query_params))


def unit_view(desk: Desk, query: Mapping[str, str]) -> View:
    """What is written of the unit. Raises InputError for a unit that cannot be."""
    shelf = desk.atlas(query.get("atlas")) if desk.atlases else None
    known = picks(shelf)
    asked = unit_of(query)
    if asked is None:
        asked = Unit(known[0]["kind"], known[0]["layer"], known[0]["index"]) if known else Unit("head", 0, 0)
    shape = sizes_of(desk, shelf)
    check(asked, shape)
    content = {
        "unit": {"kind": asked.kind, "layer": asked.layer, "index": asked.index, "name": asked.name},
        "said": said_of(desk, shelf, asked), "circuits": circuits_of(desk, asked, shape), "picks": known, "sizes": shape,
        "links": neighbours(asked, shape, query), "asked": urlencode({"layer": asked.layer, asked.kind: asked.index}),
        "why": "" if desk.live is not None else "There is no live model, so weights, texts and detectors are not shown.",
        "atlas": "" if shelf is None else shelf.id, "has_texts": desk.concept_set is not None,
    }  # fmt: skip
    return View("unit.html.j2", asked.name, content)


def unit_of(query: Mapping[str, str]) -> Unit | None:
    """The unit of an address; a neuron where it names one, else a head; None where it names neither. Raises InputError."""
    layer = asking.whole(query, "layer", 0, high=10_000)
    for kind in ("neuron", "head"):
        index = asking.maybe_whole(query, kind)
        if index is not None:
            return Unit(kind, layer, index)  # type: ignore[arg-type]
    return None


def check(asked: Unit, shape: Mapping[str, int]) -> None:
    """Raises a 404 for a layer, head or neuron that the model does not have, as far as its sizes are known."""
    size = shape["n_heads"] if asked.kind == "head" else shape["d_mlp"]
    if shape["n_layers"] and not asked.layer < shape["n_layers"]:
        raise HTTPException(404, f"there is no layer {asked.layer}; layers are 0 to {shape['n_layers'] - 1}")
    if size and not asked.index < size:
        raise HTTPException(404, f"there is no {asked.kind} {asked.index}; {asked.kind}s are 0 to {size - 1}")


def neighbours(asked: Unit, shape: Mapping[str, int], query: Mapping[str, str]) -> dict[str, str]:
    """Addresses of the units before and after, over all layers, and of the same one a layer below and above."""
    size, layers = (shape["n_heads"] if asked.kind == "head" else shape["d_mlp"]), shape["n_layers"]
    at = asked.layer * size + asked.index
    places = {"previous": at - 1, "next": at + 1, "below": at - size, "above": at + size}
    atlas = {"atlas": query["atlas"]} if query.get("atlas") else {}
    there = {name: bool(size) and 0 <= place < size * layers for name, place in places.items()}
    return {
        name: f"/unit?{urlencode({**atlas, 'layer': place // size, asked.kind: place % size})}" if there[name] else ""
        for name, place in places.items()
    }


# -- panels ------------------------------------------------------------------------------------------------------------
Steps = Generator[Said | None, None, dict[str, Any]]


async def weights(request: Request) -> Response:
    """The weights through the unembedding."""
    return await _panel(request, "Weights in words", "unit_weights.html.j2", unit_weights, short=True)


async def texts(request: Request) -> Response:
    """The texts that make the unit most active. Raises a 404 without labelled texts."""
    desk: Desk = request.app.state.desk
    labelled = desk.concept_set
    if labelled is None:
        raise HTTPException(404, "no labelled texts are open; give their file with --concepts")
    rows = [
        (text, _label(concept, row), concept.name) for concept in labelled for row, text in enumerate(concept.texts)
    ]
    return await _panel(
        request, "Most active texts", "unit_texts.html.j2", lambda model, asked: unit_texts(model, asked, rows)
    )


async def detectors(request: Request) -> Response:
    """Every detector of its kind, run once for all units of the model."""
    desk: Desk = request.app.state.desk
    live, asked = desk.model(), _unit(request)

    def work() -> Generator[Said, None, Found]:
        yield Said(0.0, "every unit of the model at once")
        return found_by_all(live.model, asked.kind)

    job = desk.jobs.submit(f"Detectors of {asked.kind}s", work, key=("detectors", live.name, asked.kind))
    return await panel(request, job, lambda found: _detected(found, asked))


def found_by_all(model: Model, kind: str) -> Found:
    """The rankings of all detectors that need no labelled texts."""
    if kind == "head":
        from conceptlab.find.heads.find_heads import find_heads

        return find_heads(model, progress=job_progress())
    from conceptlab.find.neurons.find_neurons import DETECTORS, find_neurons

    return find_neurons(model, [name for name in DETECTORS if name != "expert"], progress=job_progress())


def _detected(found: Found, asked: Unit) -> View:
    rows = [
        {"name": name, **place} for name, units in found.units.items() if (place := place_of(units, asked)) is not None
    ]
    ordered = sorted(rows, key=lambda row: 2.0 if row["q"] is None else row["q"])
    content = {"rows": ordered, "skipped": dict(found.skipped), "kind": asked.kind, "name": asked.name}
    return View("unit_detectors.html.j2", "Detectors", content)


async def _panel(
    request: Request, title: str, template: str, steps: Callable[[Model, Unit], Steps], *, short: bool = False
) -> Response:
    """A panel that one job of the live model makes."""
    desk: Desk = request.app.state.desk
    live, asked = desk.model(), _unit(request)

    def work() -> Any:
        return (yield from steps(live.model, asked))

    job = desk.jobs.submit(title, work, key=(template, live.name, asked), short=short)
    return await panel(
        request,
        job,
        lambda found: View(template, title, {"found": found, "unit": {"name": asked.name, "kind": asked.kind}}),
    )


def _unit(request: Request) -> Unit:
    asked = unit_of(request.query_params)
    if asked is None:
        raise InputError("name a head or a neuron, as in layer=2&head=1")
    return asked


def _label(concept: Any, row: int) -> str:
    """The label of a text as a word."""
    label = concept.labels[row]
    return str(concept.class_names[int(label)]) if concept.class_names else f"{float(label):.3g}"
