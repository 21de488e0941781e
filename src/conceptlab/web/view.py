"""A view: what a page or a panel shows, as data, and its four forms: HTML, JSON, one binary array, one file that works offline.

The same content makes all of them, so whatever is shown can be had as JSON, with the numbers that the atlas holds.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from conceptlab.errors import InputError
from conceptlab.pages.templates import templates
from conceptlab.plot import Chart

FORMS = ("json", "slice", "file")


@dataclass(frozen=True, eq=False)
class View:
    """`template` is a fragment in `pages/viewer/`, `content` the names it uses: plain values, frozen data and charts.

    `arrays` are the large ones: a template gives their address, modules fetch them as bytes.
    """

    template: str
    title: str
    content: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    status: int = 200

    def twin(self, address: str) -> dict[str, Any]:
        """The view as JSON values; null for what is not a number. Arrays as their shape, kind and address."""
        content = {key: twin_of(value) for key, value in self.content.items()}
        return {"title": self.title, **content, "arrays": self.array_cards(address)}

    def array_cards(self, address: str) -> dict[str, Any]:
        """Shape, kind and address of every array."""
        return {
            name: {"shape": list(a.shape), "dtype": str(a.dtype), "url": with_query(address, **{"as": "slice", "name": name})}
            for name, a in self.arrays.items()
        }  # fmt: skip


def answer(request: Request, view: View) -> Response:
    """The view in the form that the query asks for (`as`: json, slice, file; else HTML, without the frame for htmx)."""
    form = request.query_params.get("as", "")
    if form and form not in FORMS:
        raise InputError(f"a page has no form {form!r}; it has {', '.join(FORMS)}")
    if form == "json":
        return json_response(view.twin(own_address(request)), view.status)
    if form == "slice":
        return slice_response(view, request.query_params.get("name", ""))
    if form == "file":
        from conceptlab.web.export import file_response

        return file_response(request, view)
    framed = "HX-Request" not in request.headers or "HX-History-Restore-Request" in request.headers
    vary = {
        "Vary": "HX-Request, HX-History-Restore-Request"
    }  # so that going back never shows a kept fragment as the page
    return HTMLResponse(page_bytes(html(request, view, framed=framed)), view.status, vary)


def json_response(content: Any, status: int = 200) -> Response:
    """JSON values in ASCII, so that half a character, which a name may hold, comes back as it is."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return Response(text, status, media_type="application/json")


def page_bytes(text: str) -> bytes:
    """A page as UTF-8, which has no half characters: they are written out, as `visible` does."""
    return text.encode("utf-8", "backslashreplace")


def html(request: Request, view: View, *, framed: bool) -> str:
    """The fragment, inside the layout where it is a page of its own."""
    address = own_address(request)
    names = {**view.content, "view": view, "address": address, "arrays": view.array_cards(address)}
    names |= {"query": dict(request.query_params), "desk": request.app.state.desk, "path": request.url.path}
    if framed:
        return templates().get_template("viewer/layout.html.j2").render(names, fragment=f"viewer/{view.template}")
    return templates().get_template(f"viewer/{view.template}").render(names)


def slice_response(view: View, name: str) -> Response:
    """One array, C order, little-endian, behind its shape and kind. Raises InputError for a name that is not there."""
    if name not in view.arrays:
        raise InputError(f"no array {name!r} here; there are {', '.join(view.arrays) or 'none'}")
    array = np.ascontiguousarray(view.arrays[name])
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    headers = {"X-Shape": ",".join(map(str, array.shape)), "X-Dtype": str(array.dtype)}
    return Response(array.tobytes(), media_type="application/octet-stream", headers=headers)


def own_address(request: Request) -> str:
    """Path and query of this page without the form that was asked for: its permalink."""
    kept = [(k, v) for k, v in request.query_params.multi_items() if k not in ("as", "name")]
    return request.url.path + (f"?{urlencode(kept)}" if kept else "")


def with_query(address: str, **more: Any) -> str:
    """The address with more in its query."""
    return f"{address}{'&' if '?' in address else '?'}{urlencode(more)}"


def twin_of(value: Any) -> Any:
    """Any content as JSON values."""
    if isinstance(value, Chart):
        return {"title": value.title, "says": value.says, "rows": [twin_of(row) for row in value.rows]}
    if isinstance(value, Mapping):
        return {str(key): twin_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [twin_of(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: twin_of(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, np.ndarray | np.generic):
        return twin_of(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"a page shows a {type(value).__name__}, which JSON does not know")  # found by the page's test
    return value
