"""`/jobs/ID/cancel`: stop a job whose answer is not wanted any more."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response


async def cancel(request: Request) -> Response:
    """Ask the job to stop; the panel that waits for it says so when it has."""
    job = request.app.state.desk.jobs.get(request.path_params["id"])
    if job is None:
        raise HTTPException(404, "there is no such job any more")
    job.cancel()
    return Response(status_code=204)
