"""The line in the frame of every page that says whether the model is ready."""

from starlette.requests import Request
from starlette.responses import Response

from conceptlab.web.view import View, answer


async def live(request: Request) -> Response:
    """The state of the live model; htmx asks again while it is being loaded."""
    live = request.app.state.desk.live
    card = {"state": "none", "said": "no model: atlas only", "name": ""}
    if live is not None:
        card = {"state": live.state, "said": live.said, "name": live.name}
    return answer(request, View("live.html.j2", "Model", {"live": card}))
