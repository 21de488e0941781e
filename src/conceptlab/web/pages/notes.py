"""`/notes/KIND/ID`: what was written down, as JSON; PUT saves it in place of the old one, wholly or not at all."""

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from conceptlab.errors import InputError
from conceptlab.web.view import json_response


async def note(request: Request) -> Response:
    """The document (null where there is none), or its saving. Raises InputError for what is no JSON or too large."""
    notes = request.app.state.desk.notes
    if notes is None:
        raise HTTPException(404, "this viewer keeps no notes; start it with conceptlab view")
    kind, id = request.path_params["kind"], request.path_params["id"]
    if request.method == "PUT":
        await run_in_threadpool(notes.put, kind, id, parsed(await request.body()))
        return json_response({"saved": True})
    return json_response(await run_in_threadpool(notes.get, kind, id))


def parsed(body: bytes) -> Any:
    """A request's JSON. Raises InputError where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the note is no JSON ({error}); send one document") from error
