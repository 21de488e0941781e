"""A panel: a view that a job makes. It answers at once with how far the job is, and asks its own address again until it is done."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from conceptlab.web.view import View, answer

PATIENCE = 0.4  # seconds that a panel waits before it says how far its job is


async def panel(request: Request, job: Any, made: Callable[[Any], View]) -> Response:
    """The view of the job's result, or of how far it is. Whoever wants JSON, bytes or a file waits until it is done."""
    to_the_end = request.query_params.get("as", "") in ("json", "slice", "file")
    while not await job.finished(PATIENCE):
        if not to_the_end:
            return answer(request, View("waiting.html.j2", job.title, {"job": job_card(job)}))
        if await request.is_disconnected():
            job.release()  # others may wait for the same job
    if job.state == "done":
        return answer(request, made(job.result))
    return answer(
        request, View("failed.html.j2", job.title, {"job": job_card(job)}, status=200 if not to_the_end else 409)
    )


def job_card(job: Any) -> dict[str, Any]:
    """What the page says of a job."""
    card = {name: getattr(job, name) for name in ("id", "title", "state", "fraction", "said", "seconds")}
    return {**card, "error": str(job.error) if job.error else ""}
