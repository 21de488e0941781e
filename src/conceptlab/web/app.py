"""The application: which address leads to which page, and what is said when something is wrong."""

import mimetypes
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

import conceptlab.pages
from conceptlab.errors import ConceptlabError
from conceptlab.pages.bundle import begin_bundle
from conceptlab.web.view import View, answer

ASSETS = Path(conceptlab.pages.__file__).parent


def create_app(desk: Any) -> Starlette:
    """The viewer over what `desk` holds; `serving.guarded` puts the guard and the limits around it."""
    from conceptlab.web.addresses import PAGES
    from conceptlab.web.pages.papers import all_rows

    begin_bundle()
    all_rows()  # before threads load arrays: under Python 3.11 NumPy, too, stumbles over a parse beside its own
    routes = [
        Route("/favicon.ico", lambda _: RedirectResponse("/assets/icon.svg")),
        Route("/assets/{name}", asset_response),
        *(Route(path, page, methods=methods) for path, page, methods in PAGES),
    ]
    handlers: Any = {ConceptlabError: said_error, HTTPException: said_error}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.desk = desk
    return app


async def said_error(request: Request, error: Exception) -> Response:
    """One line: what was given, what is allowed, what to do next."""
    status = (
        error.status_code if isinstance(error, HTTPException) else 400 if getattr(error, "exit_code", 1) == 2 else 500
    )
    words = error.detail if isinstance(error, HTTPException) else str(error)
    if request.query_params.get("as") == "slice" or "text/html" not in request.headers.get("accept", "text/html"):
        return PlainTextResponse(f"{words}\n", status)
    return answer(request, View("error.html.j2", "This did not work", {"said": words}, status=status))


@cache
def asset_files() -> dict[str, Path]:
    """Every file that the pages may load, by its name."""
    found = {path.name: path for path in (ASSETS / "viewer" / "static").iterdir() if path.is_file()}
    return {**found, "base.css": ASSETS / "base.css", "figures.js": ASSETS / "figures.js"}


async def asset_response(request: Request) -> Response:
    """One of the known files; the charts' script is made by the chart library."""
    name = request.path_params["name"]
    if name == "vega.js":
        from starlette.concurrency import run_in_threadpool

        content = await run_in_threadpool(begin_bundle().result)
        return Response(content, media_type="text/javascript", headers={"Cache-Control": "private, max-age=3600"})
    files = asset_files()
    if name not in files:
        raise HTTPException(404, f"there is no asset {name[:60]!r}")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(files[name].read_bytes(), media_type=kind, headers={"Cache-Control": "private, max-age=60"})
