"""A job as server-sent events: what it yields, as it yields it; when its last reader goes, the job is cancelled."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse

from conceptlab.web.jobs import Event, Job
from conceptlab.web.view import twin_of


def event_stream(job: Job) -> StreamingResponse:
    """Events `job` (its id), those of the work, `said` (fraction and words) and at last one of `done`, `failed`, `cancelled`."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_lines(job), media_type="text/event-stream", headers=headers)


async def _lines(job: Job) -> AsyncIterator[bytes]:
    try:
        yield event_lines("job", {"id": job.id, "title": job.title})
        async with aclosing(job.events()) as events:  # type: ignore[type-var]
            async for item in events:
                if isinstance(item, Event):
                    yield event_lines(item.name, item.data)
                else:
                    yield event_lines("said", {"fraction": item.fraction, "said": item.text})
        yield event_lines(job.state, {"error": str(job.error or ""), "seconds": job.seconds})
    finally:
        job.release()


def event_lines(name: str, data: Any) -> bytes:
    """One event on the wire; JSON has no line breaks of its own."""
    return f"event: {name}\ndata: {json.dumps(twin_of(data), ensure_ascii=True)}\n\n".encode()
