"""The page of one prompt: concepts in its tokens, the lens, attention, and what gives a token its logit.

`/prompt` is the page; each panel has an address of its own, which is its permalink, its JSON twin (`as=json`) and its arrays
(`as=slice&name=…`). All panels of a prompt read one kept pass (`live/one_pass.py`). A token is given by its text or as `#id`.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.web.desk import Desk
from conceptlab.web.live.attention import HeadPattern, Tiles, attention_tiles, fixed_point, head_pattern
from conceptlab.web.live.contribution_rows import by_layer, head_map, rows_of_scores
from conceptlab.web.live.contributions import Contributions, contributions
from conceptlab.web.live.lens_grid import LensGrid, lens_grid
from conceptlab.web.live.one_pass import Prompt, shown_token
from conceptlab.web.live.readouts import Direction, Readouts, readouts
from conceptlab.web.pages import asking
from conceptlab.web.pages.concept import no_direction
from conceptlab.web.panels import panel
from conceptlab.web.view import View, answer

SMALL = 2000  # numbers that a JSON twin holds itself; larger arrays stand behind their addresses
MOST_CONCEPTS = 48  # rows of the map of concepts
EXAMPLES = 6
PANELS = {
    "tokens": ("/panel/readouts", "prompt atlas concept"),
    "lens": ("/panel/lens", "prompt target"),
    "attention": ("/panel/attention", "prompt layer head"),
    "contributions": ("/panel/contributions", "prompt token target distractor"),
}  # the panels' addresses, and what of the selection each depends on


async def prompt(request: Request) -> Response:
    """The page: a form and its panels, which fill themselves."""
    desk: Desk = request.app.state.desk
    query = request.query_params
    text = asked_prompt(desk, query)
    live = desk.live
    shelf = desk.atlas(query.get("atlas")) if desk.atlases else None
    content = {
        "prompt": text,
        "target": query.get("target", ""),
        "distractor": query.get("distractor", ""),
        "examples": examples(desk),
        "why": "" if live is not None else "There is no live model: conceptlab view was started with --no-model.",
        "concepts": [] if shelf is None else [{"id": id, "name": entry.name} for id, entry in shelf.concepts.items()],
        "atlas": "" if shelf is None else shelf.id,
        "atlases": list(desk.atlases),
        "concept": chosen_concept(shelf, query),
        "panels": {name: panel_address(path, names, query, text) for name, (path, names) in PANELS.items()},
    }
    return answer(request, View("prompt.html.j2", "Prompt", content))


def panel_address(path: str, names: str, query: Mapping[str, str], text: str) -> str:
    """The address of a panel: of the page's query the part that it depends on."""
    given = {**query, "prompt": text}
    return f"{path}?{urlencode({name: given[name] for name in names.split() if given.get(name)})}"


def asked_prompt(desk: Desk, query: Mapping[str, str]) -> str:
    """The prompt of an address; without one the first labelled text, so that there is something to see."""
    return query.get("prompt", "") or next(iter(examples(desk)), "The")


def examples(desk: Desk) -> list[str]:
    """A labelled text of each of the first concepts."""
    found = [] if desk.concept_set is None else [concept.texts[0] for concept in desk.concept_set]
    return list(dict.fromkeys(found))[:EXAMPLES]


def chosen_concept(shelf: Any, query: Mapping[str, str]) -> str:
    """The id of the concept that the tokens are coloured by. Raises a 404 for one that the atlas does not have."""
    chosen = query.get("concept", "")
    if chosen and (shelf is None or chosen not in shelf.concepts):
        raise HTTPException(404, f"the atlas has no concept {chosen[:60]!r}")
    return chosen or (next(iter(shelf.concepts), "") if shelf is not None else "")


# -- concepts in the tokens ------------------------------------------------------------------------------------------
async def readouts_panel(request: Request) -> Response:
    """Every token with its projection on concepts."""
    desk: Desk = request.app.state.desk
    live, text = desk.model(), asked_prompt(desk, request.query_params)
    shelf = desk.atlas(request.query_params.get("atlas")) if desk.atlases else None
    chosen = chosen_concept(shelf, request.query_params)

    def work() -> Any:
        return (yield from readouts(live, text, directions_of(shelf, chosen), chosen))

    said = await run_in_threadpool(_no_direction, shelf, chosen)
    key = ("readouts", live.name, text, getattr(shelf, "id", ""), chosen)
    job = desk.jobs.submit("Concepts in the tokens", work, key=key, short=True)
    return await panel(request, job, lambda found: readouts_view(found, chosen, said))


def directions_of(shelf: Any, chosen: str) -> list[Direction]:
    """The directions of an atlas's concepts, the chosen one among them, at most `MOST_CONCEPTS`; those without one are left out."""
    if shelf is None:
        return []
    first = list(shelf.concepts)[:MOST_CONCEPTS]
    found: list[Direction] = []
    for id in first if chosen in first or not chosen else [chosen, *first[:-1]]:
        subspace = shelf.concept(id).direction
        if subspace is not None and subspace.exists:
            at = 0 if subspace.site.name in ("embed", "resid_pre") else int(subspace.site.layer or 0) + 1
            found.append(Direction(id, shelf.concepts[id].name, at, subspace))
    return found


def _no_direction(shelf: Any, chosen: str) -> str:
    """Why the tokens cannot be coloured by a concept; empty where they can."""
    if shelf is None or not chosen:
        return ""
    made = shelf.concept(chosen)
    return "" if made.direction is not None and made.direction.exists else no_direction(made)


def readouts_view(found: Readouts, chosen: str, missing_said: str = "") -> View:
    """The panel of the tokens."""
    own = found.concepts[found.chosen] if found.concepts else None
    content = {
        **token_content(found.prompt),
        "layers": list(found.layers),
        "concepts": [{"id": d.id, "name": d.name, "layer": found.layers[d.at]} for d in found.concepts],
        "chosen": None
        if own is None
        else {"id": own.id, "name": own.name, "at": own.at, "layer": found.layers[own.at]},
        "missing": chosen if own is None or own.id != chosen else "",
        "missing_said": missing_said,
        "unit": found.unit,
        "limit": found.prompt.limit,
        "kept_bytes": found.prompt.kept,
        "kept": size_words(found.prompt.kept),
        "values": small({"each": found.each, "by_layer": found.by_layer, "random": found.random, "bound": found.bound}),
    }
    arrays = {"each": found.each, "by_layer": found.by_layer, "random": found.random, "bound": found.bound}
    return View("prompt_tokens.html.j2", "Concepts in the tokens", content, arrays if own is not None else {})


# -- the lens --------------------------------------------------------------------------------------------------------
async def lens_panel(request: Request) -> Response:
    """The grid of the logit lens."""
    desk: Desk = request.app.state.desk
    live, text, target = desk.model(), asked_prompt(desk, request.query_params), request.query_params.get("target", "")
    work = lambda: lens_grid(live, text, target)  # noqa: E731 - a job is a function without arguments
    job = desk.jobs.submit("Logit lens", work, key=("lens", live.name, text, target), short=True)
    return await panel(request, job, lens_view)


def lens_view(grid: LensGrid) -> View:
    """The panel of the lens."""
    arrays = {
        "top_id": grid.top_id,
        "top_prob": grid.top_prob,
        "entropy": grid.entropy,
        "target": grid.target.astype(np.int32),
        "target_prob": grid.target_prob,
        "target_rank": grid.target_rank,
    }
    content = {
        **token_content(grid.prompt),
        "layers": list(grid.layers),
        "target": names_content(grid.names, grid.target[:1].tolist())[0] if grid.asked else None,
        "names": {str(id): name for id, name in grid.names.items()},
        "shown_names": {str(id): shown_token(name) for id, name in grid.names.items()},
        "control": {name: values.tolist() for name, values in grid.control.items()},
        "d_vocab": grid.d_vocab,
        "values": small(arrays),
    }
    return View("prompt_lens.html.j2", "Logit lens", content, arrays)


# -- attention -------------------------------------------------------------------------------------------------------
async def attention_panel(request: Request) -> Response:
    """Small pictures of all heads."""
    desk: Desk = request.app.state.desk
    live, text = desk.model(), asked_prompt(desk, request.query_params)
    work = lambda: attention_tiles(live, text)  # noqa: E731
    job = desk.jobs.submit("Attention", work, key=("attention", live.name, text), short=True)
    layer, head = asking.maybe_whole(request.query_params, "layer"), asking.maybe_whole(request.query_params, "head")
    return await panel(request, job, lambda found: attention_view(found, layer or 0, head or 0))


def attention_view(found: Tiles, layer: int, head: int) -> View:
    """The panel of all heads, and the addresses of the one that is shown first."""
    if layer >= len(found.n_heads) or head >= found.n_heads[layer]:
        layer, head = next(i for i, n in enumerate(found.n_heads) if n), 0
    asked = {"prompt": found.prompt.text, "layer": layer, "head": head, "as": "slice"}
    names = ["weights"] if found.no_values else ["weights", "value_norm"]
    content = {
        "first": {"layer": layer, "head": head}
        | {name: f"/panel/head?{urlencode({**asked, 'name': name})}" for name in names},
        **token_content(found.prompt),
        "n_heads": list(found.n_heads),
        "missing": [{"layer": layer, "said": said} for layer, said in found.missing.items()],
        "tile": found.tiles.shape[-1],
        "no_values": found.no_values,
        "scale": "255 x the square root of the largest weight in a cell",
    }
    return View("prompt_attention.html.j2", "Attention", content, {"tiles": found.tiles})


async def head_panel(request: Request) -> Response:
    """One head at full size."""
    desk: Desk = request.app.state.desk
    query = request.query_params
    live, text = desk.model(), asked_prompt(desk, query)
    layer, head = asking.whole(query, "layer", 0, high=10_000), asking.whole(query, "head", 0, high=100_000)
    work = lambda: head_pattern(live, text, layer, head)  # noqa: E731
    key = ("pattern", live.name, text, layer, head)
    job = desk.jobs.submit(f"Attention of L{layer}.H{head}", work, key=key, short=True)
    return await panel(request, job, head_view)


def head_view(found: HeadPattern) -> View:
    """One head: weights as float32 and in 16 bits for the picture, and the norms of its values."""
    values = {"weights": found.weights}
    if found.value_norm is not None:
        values["value_norm"] = found.value_norm
    content = {
        **token_content(found.prompt),
        "layer": found.layer,
        "head": found.head,
        "n_heads": found.n_heads,
        "no_values": found.no_values,
        "scale": "weights: 65535 is 1; exact: float32; value_norm: length of each token's value vector",
        "values": small(values),
    }
    arrays = {**values, "weights": fixed_point(found.weights), "exact": found.weights}
    return View("prompt_head.html.j2", f"L{found.layer}.H{found.head}", content, arrays)


# -- direct logit attribution ----------------------------------------------------------------------------------------
async def contributions_panel(request: Request) -> Response:
    """What gives a token its logit."""
    desk: Desk = request.app.state.desk
    query = request.query_params
    live, text = desk.model(), asked_prompt(desk, query)
    token = asking.maybe_whole(query, "token", high=10_000_000)
    target, distractor = query.get("target", ""), query.get("distractor", "")
    work = lambda: contributions(live, text, token, target, distractor)  # noqa: E731
    key = ("contributions", live.name, text, token, target, distractor)
    job = desk.jobs.submit("Direct logit attribution", work, key=key)
    return await panel(request, job, contributions_view)


def contributions_view(found: Contributions) -> View:
    """The panel of direct contributions: layers, heads, source tokens, each beside its control."""
    heads, control = head_map(found.scores)
    arrays: dict[str, np.ndarray] = {}
    if heads is not None:
        arrays |= {"heads": heads, "heads_control": control}
    if found.sources is not None and found.sources_control is not None:
        arrays |= {"sources": found.sources, "sources_control": found.sources_control}
    asked = [found.target] if found.distractor is None else [found.target, found.distractor]
    named = names_content(found.names, asked)
    content = {
        **token_content(found.prompt),
        "token": found.token,
        "target": named[0],
        "distractor": named[1] if len(named) > 1 else None,
        "sum": found.scores.data.attrs["logit_diff"],
        "of_model": found.scores.data.attrs["logit_diff_of_model"],
        "residual": found.scores.data.attrs["residual"],
        "components": rows_of_scores(found.scores),
        "layers": by_layer(found.scores),
        "no_sources": found.no_sources,
        "values": small(arrays),
    }
    return View("prompt_contributions.html.j2", "Direct logit attribution", content, arrays)


# -- what all panels share -------------------------------------------------------------------------------------------
def token_content(prompt: Prompt) -> dict[str, Any]:
    """The prompt's tokens: texts as they stand, as they are shown, and ids."""
    return {"prompt": prompt.text, "tokens": list(prompt.tokens), "shown": list(prompt.shown), "ids": list(prompt.ids)}


def names_content(names: Mapping[int, str], ids: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens of the vocabulary by id, as text and for the eye."""
    return [{"id": id, "text": names[id], "shown": shown_token(names[id])} for id in ids]


def size_words(n_bytes: int) -> str:
    """Bytes as one reads them."""
    return f"{n_bytes / 2**20:.1f} MiB" if n_bytes >= 2**20 else f"{max(1, round(n_bytes / 2**10))} KiB"


def small(arrays: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The numbers of small arrays, for the JSON twin; None where they are large and stand behind their addresses."""
    if max((array.size for array in arrays.values()), default=0) > 5 * SMALL:
        return None
    return {name: array.tolist() for name, array in arrays.items()}
