"""A page as one HTML file that works from disk, offline: its panels filled, its arrays, styles, modules and charts inside.

Panels are asked for through the application itself, guard and all, with the reader's own headers, until each is done. The policy in
the file names its scripts and its style by hash and forbids every request.
"""

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from conceptlab.errors import RunError
from conceptlab.pages.bundle import begin_bundle
from conceptlab.pages.templates import STATIC, asset, modules, sheets, templates, themes
from conceptlab.results.saving import file_name
from conceptlab.web.offline import slice_addresses, stripped, waiting
from conceptlab.web.view import View, html, own_address, page_bytes

PATIENCE = 300.0  # seconds that a file waits for its panels
AGAIN = 0.2
DEEPEST = 3  # panels inside panels
MOST_BYTES = 128 * 2**20  # of arrays
STILL = re.compile(r'\s*<div class="waiting"[^>]*hx-trigger="load delay')

Fetch = Callable[[str, bool], Awaitable[tuple[int, dict[str, str], bytes]]]


class FileResponse(Response):
    """The file, made when the server comes to send it."""

    def __init__(self, request: Request, view: View) -> None:
        super().__init__(status_code=view.status)
        self._request, self._view = request, view

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Fill the page and send it."""
        made = await whole_file(self._request, self._view)
        name = f"{file_name(self._view.title)}.html"
        response = HTMLResponse(
            page_bytes(made), self._view.status, {"Content-Disposition": f'attachment; filename="{name}"'}
        )
        await response(scope, receive, send)


def file_response(request: Request, view: View) -> Response:
    """The page as a file to be saved."""
    return FileResponse(request, view)


async def whole_file(request: Request, view: View) -> str:
    """The HTML of the file. Raises RunError where a panel does not end or arrays are too large for a file."""
    fetch = _fetcher(request)
    deadline = asyncio.get_running_loop().time() + PATIENCE
    body = await _filled(html(request, view, framed=False), fetch, deadline)
    slices = await _slices(slice_addresses(body), fetch)
    return await run_in_threadpool(_page, view.title, own_address(request), stripped(body), slices)


async def _filled(text: str, fetch: Fetch, deadline: float, depth: int = 0) -> str:
    """The text with every panel in its place."""
    if depth > DEEPEST:
        return text
    parts, at = [], 0
    for one in waiting(text):
        parts += [
            text[at : one.start],
            await _filled(await _panel(one.url, fetch, deadline), fetch, deadline, depth + 1),
        ]
        at = one.end
    return "".join([*parts, text[at:]])


async def _panel(url: str, fetch: Fetch, deadline: float) -> str:
    """A panel's HTML once it is done."""
    while True:
        _, _, body = await fetch(url, True)
        text = body.decode("utf-8", "replace")
        if not STILL.match(text):
            return text
        if asyncio.get_running_loop().time() > deadline:
            raise RunError(
                f"a panel of this page ({url[:80]}) is not done after {PATIENCE:.0f} s; save the page again later"
            )
        await asyncio.sleep(AGAIN)


async def _slices(urls: list[str], fetch: Fetch) -> list[dict[str, str]]:
    """Every array of the page with its address, shape and kind, as base64."""
    found, size = [], 0
    for url in urls:
        status, headers, body = await fetch(url, False)
        if status != 200 or "x-shape" not in headers:
            continue  # an array that is asked for on demand and needs more than its address
        size += len(body)
        if size > MOST_BYTES:
            raise RunError(
                f"the arrays of this page are larger than {MOST_BYTES // 2**20} MiB; choose less and save again"
            )
        found.append(
            {
                "url": url,
                "shape": headers["x-shape"],
                "dtype": headers["x-dtype"],
                "data": base64.b64encode(body).decode(),
            }
        )
    return found


def _fetcher(request: Request) -> Fetch:
    """Ask the application that answers this request for another of its addresses."""

    async def fetch(url: str, fragment: bool) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(url)
        left_out = (b"hx-request", b"accept", b"range", b"if-none-match")
        headers = [(k, v) for k, v in request.scope["headers"] if k.lower() not in left_out]
        headers += [(b"hx-request", b"true")] if fragment else []
        kept = ("type", "asgi", "http_version", "scheme", "server", "client", "root_path", "extensions")
        scope = {key: request.scope[key] for key in kept if key in request.scope}
        scope |= {
            "method": "GET", "path": unquote(parts.path), "raw_path": parts.path.encode(), "query_string": parts.query.encode(),
            "headers": [*headers, (b"accept", b"*/*")],
        }  # fmt: skip
        told: dict[str, Any] = {"status": 500, "headers": {}, "body": []}

        async def receive(sent: list[int] = []) -> dict[str, Any]:  # noqa: B006 - one list a request: whether its body was read
            if sent:
                await asyncio.Event().wait()
            sent.append(1)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                told["status"] = message["status"]
                told["headers"] = {k.decode().lower(): v.decode("latin-1") for k, v in message.get("headers", [])}
            elif message["type"] == "http.response.body":
                told["body"].append(message.get("body", b""))

        await request.app(scope, receive, send)
        return told["status"], told["headers"], b"".join(told["body"])

    return fetch


def _page(title: str, address: str, body: str, slices: list[dict[str, str]]) -> str:
    """Everything in one piece, under a policy that names it."""
    style = "".join(
        [asset("base.css"), asset("viewer/static/viewer.css"), *(asset(f"viewer/static/{s}") for s in sheets())]
    )
    widgets = set(re.findall(r'data-widget="([\w-]+)"', body))
    made = {name: set(re.findall(r'widget\(\s*"([\w-]+)"', _module(name))) for name in modules()}
    kept = [name for name, own in made.items() if widgets & own or not own]  # those without a widget serve the others
    charts = [_safe(begin_bundle().result()), _safe(asset("figures.js"))] if 'class="chart' in body else []
    scripts = {
        "first": _safe(_module("theme.js")),
        "charts": charts,
        "modules": [_safe(_module(name)) for name in ("core.js", *kept)],
    }
    policy = _policy(style, [scripts["first"], *scripts["charts"], *scripts["modules"]])
    marked = {
        "style": Markup(style), "first": Markup(scripts["first"]), "charts": [Markup(s) for s in scripts["charts"]],
        "widgets": [Markup(s) for s in scripts["modules"]], "body": Markup(body),
    }  # fmt: skip
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    page = templates().get_template("viewer/file.html.j2")
    return page.render(title=title, address=address, when=when, slices=slices, policy=policy, themes=themes(), **marked)


def _module(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _safe(script: str) -> str:
    """A script that nothing in it can end."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(style: str, scripts: list[str]) -> str:
    named = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {named}; style-src {_hash(style)}; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
