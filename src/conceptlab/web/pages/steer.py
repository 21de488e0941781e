"""The page that steers: a push at a place of the model, and what it does to the text, beside the plain model and a random push.

`/steer` is the page; its address holds every setting, and its JSON twin the three texts with their numbers. `/stream/steer` is the
same address as events, a token at a time.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.errors import InputError
from conceptlab.results import Subspace
from conceptlab.web.desk import Desk
from conceptlab.web.job import Job
from conceptlab.web.live.continuations import continuations
from conceptlab.web.live.steering import KINDS, SCALES, Steering
from conceptlab.web.pages import asking
from conceptlab.web.pages.concept import no_direction
from conceptlab.web.pages.streaming import event_stream
from conceptlab.web.panels import job_card
from conceptlab.web.view import View, answer

MOST_TOKENS = 200
STRONGEST = 10_000.0
WHOLE = ("json", "file")


async def steer(request: Request) -> Response:
    """The page. As JSON or a file it waits for the texts."""
    desk: Desk = request.app.state.desk
    asked, said = _asked(desk, request.query_params)
    content: dict[str, Any] = {
        "asked": asdict(asked),
        "said": said,
        "result": None,
        "job": None,
        **_choices(desk, request, asked),
    }
    if request.query_params.get("as") in WHOLE and not said and desk.live is not None:
        job = _submitted(desk, request.query_params, asked)
        while not await job.finished(0.5):
            if await request.is_disconnected():
                job.release()
        content |= {"result": job.result, "job": job_card(job)}
    return answer(request, View("steer.html.j2", "Steer", content))


async def stream(request: Request) -> Response:
    """The same settings as a stream of events."""
    desk: Desk = request.app.state.desk
    asked = asked_of(request.query_params, _first_prompt(desk, request.query_params))
    return event_stream(_submitted(desk, request.query_params, asked))


def asked_of(query: Mapping[str, str], prompt: str) -> Steering:
    """The settings of an address; `prompt` where it has none. Raises InputError for what makes no sense."""
    kind = asking.choice(query, "kind", KINDS)
    return Steering(
        kind=kind,  # type: ignore[arg-type]
        concept=query.get("concept", ""),
        towards=asking.whole(query, "towards", 1),
        layer=asking.maybe_whole(query, "layer", high=10_000),
        unit=asking.whole(query, "head" if kind == "head" else "neuron", 0),
        strength=asking.number(query, "strength", {"direction": 0.5, "neuron": 5.0, "head": 0.0}[kind], -STRONGEST, STRONGEST),
        scale=asking.choice(query, "scale", SCALES),  # type: ignore[arg-type]
        prompt=asking.text(query, "prompt", prompt) or prompt,
        n_new=asking.whole(query, "tokens", 24, 1, MOST_TOKENS),
        temperature=asking.number(query, "temperature", 0.0, 0.0, 100.0),
        seed=asking.whole(query, "seed", 0),
        draw=asking.whole(query, "draw", 0),
    )  # fmt: skip


def _asked(desk: Desk, query: Mapping[str, str]) -> tuple[Steering, str]:
    """The settings, or the default ones and what is wrong with those that were given."""
    prompt = _first_prompt(desk, query)
    try:
        return asked_of(query, prompt), ""
    except InputError as error:
        return Steering(prompt=prompt), str(error)


def _submitted(desk: Desk, query: Mapping[str, str], asked: Steering) -> Job:
    """The job of these settings. Raises a 404 without a model, or for a concept that is not there."""
    live = desk.model()
    atlas = desk.atlas(query.get("atlas")) if desk.atlases else None
    chosen = _chosen(atlas, asked)

    def work() -> Any:
        subspace: Subspace | None = atlas.concept(chosen).direction if atlas is not None and chosen else None
        return (yield from continuations(live.model, asked, subspace))

    key = ("steer", getattr(atlas, "id", ""), chosen, asked)
    return desk.jobs.submit("Steered texts", work, key=key, again=True)


def found_of(atlas: Any) -> dict[str, bool]:
    """Which concepts of an atlas were found, by id, as far as its overview says."""
    overview = None if atlas is None else atlas.overview
    if overview is None:
        return {}
    return dict(zip(overview["concept"].values.tolist(), map(bool, overview["found"].values), strict=True))


def _first_concept(atlas: Any) -> str:
    """The id of the first concept that was found, else of the first."""
    if atlas is None:
        return ""
    found = found_of(atlas)
    return next((id for id in atlas.concepts if found.get(id)), next(iter(atlas.concepts), ""))


def _chosen(atlas: Any, asked: Steering) -> str:
    """The concept that is pushed or read out; empty where there is none. Raises a 404 for one that the atlas does not have."""
    chosen = asked.concept or (_first_concept(atlas) if asked.kind == "direction" else "")
    if chosen and (atlas is None or chosen not in atlas.concepts):
        raise HTTPException(404, f"the atlas has no concept {chosen[:60]!r}")
    return chosen


def _first_prompt(desk: Desk, query: Mapping[str, str]) -> str:
    """The beginning of a labelled text of the concept, without its last word, so that the model has something to say."""
    if desk.concept_set is None:
        return "The"
    atlas = desk.atlas(query.get("atlas")) if desk.atlases else None
    entry = None if atlas is None else atlas.concepts.get(query.get("concept") or _first_concept(atlas))
    by_name = {concept.name: concept for concept in desk.concept_set}
    concept = by_name.get(getattr(entry, "name", ""), next(iter(desk.concept_set)))
    words = concept.texts[0].rstrip(" .?!\n").split(" ")
    return " ".join(words[: max(1, len(words) - 1)])


def _choices(desk: Desk, request: Request, asked: Steering) -> dict[str, Any]:
    """What the form offers."""
    atlas = desk.atlas(request.query_params.get("atlas")) if desk.atlases else None
    chosen = _chosen(atlas, asked)
    found = found_of(atlas)
    concepts = [] if atlas is None else [
        {"id": id, "name": entry.name, "found": found.get(id, True), "chosen": id == chosen}
        for id, entry in atlas.concepts.items()
    ]  # fmt: skip
    classes: list[str] = []
    layer, said = None, ""
    if atlas is not None and chosen:
        direction = atlas.concept(chosen).direction
        classes = list(direction.class_names) if direction is not None else []
        layer = None if direction is None else str(direction.site)
        said = "" if direction is not None and direction.exists else no_direction(atlas.concept(chosen))
    sizes = sizes_of(desk, atlas)
    return {"concepts": concepts, "classes": classes, "direction_site": layer, "sizes": sizes,
            "no_direction": said, "why": _why(desk)}  # fmt: skip


def sizes_of(desk: Desk, atlas: Any = None) -> dict[str, int]:
    """How many layers, heads and neurons there are, as far as it is known without waiting."""
    names = ("n_layers", "n_heads", "d_mlp")
    if desk.live is not None and desk.live.state == "ready":
        return {name: int(getattr(desk.live.model, name)) for name in names}
    atlas = atlas or next(iter(desk.atlases.values()), None)
    known = {} if atlas is None else dict(atlas.model)
    return {name: int(known.get(name) or 0) for name in names}


def _why(desk: Desk) -> str:
    """Why nothing can be steered, or nothing."""
    if desk.live is None:
        return "There is no live model: conceptlab view was started with --no-model."
    return f"The model could not be loaded: {desk.live.said}" if desk.live.state == "failed" else ""
