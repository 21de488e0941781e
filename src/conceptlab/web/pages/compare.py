"""Two atlases, of two models or of two checkpoints of one, concept by concept.

A difference is of the same number in both. Its interval joins the two intervals (method of variance estimates recovery, Zou and
Donner 2008): low = d - sqrt((b - b_low)^2 + (a_high - a)^2), high = d + sqrt((b_high - b)^2 + (a - a_low)^2), as if the two were
independent; where both were measured on the same texts they are not, and the interval is likely too wide, never a narrower one.
"""

import math
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.errors import ConceptlabError
from conceptlab.plot.comparison import comparison_chart
from conceptlab.plot.naming import metric_name, visible
from conceptlab.plot.rows import number
from conceptlab.web.atlas_shelf import AtlasShelf
from conceptlab.web.live.fitting import UNKNOWN
from conceptlab.web.pages.asking import choice, text, whole
from conceptlab.web.pages.home import card
from conceptlab.web.view import View, answer

PAGE = 100
SORTS = {"difference": "largest difference first", "effect": "largest difference of effect first", "name": "by name"}


async def compare(request: Request) -> Response:
    """The page; with fewer than two atlases it says how to open a second one."""
    return answer(request, await run_in_threadpool(compare_view, request.app.state.desk, request.query_params))


def compare_view(desk: Any, query: Mapping[str, str]) -> View:
    """What the page shows."""
    content: dict[str, Any] = {
        "atlases": [card(shelf) for shelf in desk.atlases.values()],
        "sorts": SORTS,
        "pair": None,
    }
    if not desk.atlases:
        return View("compare.html.j2", "Compare", content)
    one = desk.atlas(query.get("atlas"))
    others = [shelf for shelf in desk.atlases.values() if shelf is not one and not shelf.said]
    other = desk.atlas(query["other"]) if query.get("other") else next(iter(others), None)
    if other is None or one.said or other.said:
        why = next((s.said for s in (one, other) if s is not None and s.said), "")
        return View("compare.html.j2", "Compare", content | {"why": why})
    sort, find = choice(query, "sort", list(SORTS)), text(query, "find")
    rows, broken = pairs(one, other)
    kept = ordered([row for row in rows if find.casefold() in row["name"].casefold()], sort)
    pages = max(1, math.ceil(len(kept) / PAGE))
    page = min(whole(query, "page", 1, low=1), pages)
    shown = kept[(page - 1) * PAGE : page * PAGE]
    why_no_cosine = no_cosine(one, other)
    for row in shown:
        row |= cosine(one, other, row["id"]) if not why_no_cosine else {"cosine": None, "cosine_said": ""}
    measured = [row for row in rows if row["difference"] is not None]
    content |= {
        "pair": {
            "one": card(one), "other": card(other), "n": len(rows), "measured": len(measured),
            "differ": sum(row["differs"] for row in measured), "found_one": sum(row["one"]["found"] for row in rows),
            "found_other": sum(row["other"]["found"] for row in rows), "same_texts": same_texts(one, other),
            "only_one": len(one.concepts) - len(rows) - len(broken), "only_other": len(other.concepts) - len(rows) - len(broken),
        },
        "chart": comparison_chart([_point(row) for row in measured], one.name, other.name) if measured else None,
        "rows": shown, "broken": broken, "page": page, "pages": pages, "sort": sort, "find": find,
        "why_no_cosine": why_no_cosine, "random_cosine": random_cosine(one),
    }  # fmt: skip
    return View("compare.html.j2", f"{visible(one.name, 40)} and {visible(other.name, 40)}", content)


def pairs(one: AtlasShelf, other: AtlasShelf) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for every concept that both have, and why others could not be read."""
    rows, broken = [], {}
    for id, entry in one.concepts.items():
        if id not in other.concepts:
            continue
        try:
            rows.append(_row(id, entry.name, _side(one, id), _side(other, id)))
        except (ConceptlabError, KeyError, TypeError, ValueError) as error:
            broken[entry.name] = str(error)
    return rows, broken


def _side(shelf: AtlasShelf, id: str) -> dict[str, Any]:
    """One atlas's numbers of a concept."""
    v = shelf.values(id)
    low, high = v["score_interval"]
    effect_low, effect_high = v["effect_interval"] or (None, None)
    return {
        "found": bool(v["found"]), "q": v["q"], "score": v["score"], "low": low, "high": high, "control": v["control"],
        "metric": metric_name(v["metric"]), "best_layer": v["best_layer"], "depth": _share(shelf, v["best_layer"]),
        "effect": v["effect"], "effect_low": effect_low, "effect_high": effect_high, "effect_control": v["effect_control"],
        "effect_kind": v["effect_kind"], "n": v["n"],
    }  # fmt: skip


def _share(shelf: AtlasShelf, layer: str) -> float | None:
    """A layer as a share of the depth: 0 the embedding, 1 the last layer."""
    n = shelf.model.get("n_layers")
    if layer == "embed":
        return 0.0
    return (int(layer) + 1) / n if isinstance(n, int) and n and str(layer).isdecimal() else None


def _row(id: str, name: str, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    score = difference(a, b, "score", "low", "high") if a["metric"] == b["metric"] else None
    same = a["effect_kind"] == b["effect_kind"] and a["effect"] is not None and b["effect"] is not None
    effect = difference(a, b, "effect", "effect_low", "effect_high") if same else None
    said = "" if a["metric"] == b["metric"] else f"{a['metric']} and {b['metric']} are not the same number"
    return {
        "id": id, "name": name, "one": a, "other": b, "said": said,
        "difference": score and score[0], "difference_low": score and score[1], "difference_high": score and score[2],
        "differs": bool(score and excludes_zero(score)),
        "effect": effect and effect[0], "effect_low": effect and effect[1], "effect_high": effect and effect[2],
        "effect_differs": bool(effect and excludes_zero(effect)),
    }  # fmt: skip


def difference(
    a: Mapping[str, Any], b: Mapping[str, Any], value: str, low: str, high: str
) -> tuple[float, float | None, float | None] | None:
    """b - a with its interval (None where one of the two has none); None where a value is missing."""
    x, y = a[value], b[value]
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    ends = (a[low], a[high], b[low], b[high])
    if any(end is None or not math.isfinite(end) for end in ends):
        return y - x, None, None
    below = math.hypot(y - b[low], a[high] - x)
    above = math.hypot(b[high] - y, x - a[low])
    return y - x, y - x - below, y - x + above


def excludes_zero(found: tuple[float, float | None, float | None]) -> bool:
    """Whether the interval of a difference lies on one side of 0."""
    return found[1] is not None and found[2] is not None and (found[1] > 0 or found[2] < 0)


def ordered(rows: list[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """The rows in one of SORTS, those without a difference last."""
    if sort == "name":
        return sorted(rows, key=lambda row: row["name"].casefold())
    return sorted(rows, key=lambda row: -abs(row[sort]) if row[sort] is not None else math.inf)


def same_texts(one: AtlasShelf, other: AtlasShelf) -> bool:
    """Whether both atlases were made from the same labelled texts."""
    return bool(one.provenance.data_hash) and one.provenance.data_hash == other.provenance.data_hash


def no_cosine(one: AtlasShelf, other: AtlasShelf) -> str:
    """Why directions of the two cannot be compared; empty where they can."""
    a, b = one.model, other.model
    if a.get("d_model") != b.get("d_model"):
        return f"the models are {a.get('d_model')} and {b.get('d_model')} wide, so their directions lie in different spaces"
    known = a.get("revision") not in UNKNOWN and a.get("revision") == b.get("revision")
    if known or a.get("name") == b.get("name"):
        return ""
    return "two models that were trained apart write into bases of their own, so a cosine between their directions means nothing"


def cosine(one: AtlasShelf, other: AtlasShelf, id: str) -> dict[str, Any]:
    """The cosine of the two directions, where both are one direction at the same place."""
    try:
        a, b = one.part(id, "direction"), other.part(id, "direction")
    except ConceptlabError as error:
        return {"cosine": None, "cosine_said": str(error)}
    if a is None or b is None:
        return {"cosine": None, "cosine_said": "no direction"}
    if not (a.exists and b.exists):
        return {
            "cosine": None,
            "cosine_said": f"no direction at {(b if a.exists else a).site}: its labels do not differ there",
        }
    if a.rank != 1 or b.rank != 1:
        return {"cosine": None, "cosine_said": f"{max(a.rank, b.rank)} axes, not one"}
    if a.site != b.site:
        return {"cosine": None, "cosine_said": f"{a.site} and {b.site}"}
    return {"cosine": float(a.vector.double() @ b.vector.double()), "cosine_said": str(a.site)}


def random_cosine(shelf: AtlasShelf) -> float | None:
    """The mean size of the cosine of two random directions of this width."""
    width = shelf.model.get("d_model")
    return math.sqrt(2 / (math.pi * width)) if isinstance(width, int) and width else None


def _point(row: dict[str, Any]) -> dict[str, Any]:
    """A row as a mark of the chart."""
    sides = {
        f"{side}{end}": number(float(row[side][key]))
        for side in ("one", "other")
        for end, key in (("", "score"), ("_low", "low"), ("_high", "high"), ("_control", "control"))
    }
    return {
        "concept": visible(row["name"], 40),
        "differs": row["differs"],
        "difference": number(row["difference"]),
        **sides,
    }
