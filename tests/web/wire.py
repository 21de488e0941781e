"""A small site behind the real guard, limits, protocol and server, and raw sockets that talk to it as nobody's browser would."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from conceptlab.web.guard import GuardSettings
from conceptlab.web.protocol import GuardedProtocol
from conceptlab.web.serving import listen, server_of

SECRET = "the page's own words"
STATIC = {"core.js": "const secret = 'the page\\'s own words'"}


class Quick(GuardedProtocol):
    """Deadlines that a test can wait for."""

    request_seconds = 1.0
    drain_seconds = 1.0
    most_connections = 40


async def page(request: Request) -> Response:
    request.app.state.seen.append(f"{request.method} {request.url.path}")
    return PlainTextResponse(SECRET)


async def static(request: Request) -> Response:
    if request.path_params["name"] not in STATIC:
        raise HTTPException(404, "no such file")
    return PlainTextResponse(STATIC[request.path_params["name"]])


async def echo(request: Request) -> Response:
    return PlainTextResponse(f"{len(await request.body())} bytes")


async def sized(request: Request) -> Response:
    kind = "application/octet-stream" if request.path_params["kind"] == "slice" else "text/html"
    return Response(bytes(int(request.query_params["n"])), media_type=kind)


async def flood(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield bytes(2**20)

    return StreamingResponse(pieces(), media_type="text/html")


async def stream(request: Request) -> Response:
    size = int(request.query_params.get("n", "10"))

    async def events() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"data: " + b"x" * size + b"\n\n"
                await asyncio.sleep(0.01)
        finally:
            request.app.state.seen.append("stream ended")

    return StreamingResponse(events(), media_type="text/event-stream")


async def boom(request: Request) -> Response:
    raise ZeroDivisionError("a secret of the trace")


def stand_in(seen: list[str]) -> Starlette:
    """Pages of every kind that the viewer has; `seen` notes what reached them, and what ended."""
    routes = [
        Route("/", page),
        Route("/concept/{id}", page),
        Route("/static/{name}", static),
        Route("/stream", stream),
        Route("/flood", flood),
        Route("/boom", boom),
        Route("/echo", echo, methods=["POST", "PUT", "DELETE"]),
        Route("/{kind:str}/sized", sized),
    ]
    app = Starlette(routes=routes)
    app.state.seen = seen
    return app


@dataclass
class Reply:
    """One parsed response."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        return self.body.decode("utf-8", "replace")


class Wire:
    """A running server and ways to talk to it."""

    def __init__(self, app=None, protocol=Quick, hosts=frozenset()) -> None:  # noqa: ANN001
        self.seen: list[str] = []
        self.now = [1000.0]
        self.settings = GuardSettings("right-token-of-this-run", hosts, clock=lambda: self.now[0])
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        started = threading.Event()
        self.server = server_of(
            app or stand_in(self.seen), self.settings, on_start=started.set, protocol=protocol
        )  # fmt: skip
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        assert started.wait(20)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()
        assert not self.thread.is_alive()

    @property
    def cookie(self) -> str:
        return f"conceptlab-{self.port}={self.settings.session}"

    @property
    def known(self) -> dict[str, str]:
        return {"Cookie": self.cookie}

    def connect(self, timeout: float = 20.0) -> socket.socket:
        made = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def raw(self, request: bytes, timeout: float = 20.0) -> bytes:
        """Send bytes and read until the server closes."""
        with self.connect(timeout) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(request)
            return drained(sock)

    def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"", *, known: bool = True
    ) -> Reply:
        """One request on a connection of its own, with the cookie unless `known` is False or a header says otherwise."""
        given = {"Host": self.host, **(self.known if known else {}), **(headers or {}), "Connection": "close"}
        if body:
            given.setdefault("Content-Length", str(len(body)))
        return parsed(self.raw(request_of(method, target, given) + body), head=method == "HEAD")


def request_of(method: str, target: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def drained(sock: socket.socket) -> bytes:
    """Everything until the end of the connection; a reset ends it, too."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(2**20):
            found += piece
    return bytes(found)


def parsed(raw: bytes, *, head: bool = False) -> Reply:
    """The first response in `raw`."""
    top, _, rest = raw.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    pairs = [line.split(": ", 1) for line in lines]
    headers = {name.lower(): value for name, value in pairs}
    if headers.get("transfer-encoding") == "chunked" and not head:
        rest = unchunked(rest)
    cookies = [value for name, value in pairs if name.lower() == "set-cookie"]
    return Reply(int(first.split()[1]), headers, rest, cookies)


def unchunked(raw: bytes) -> bytes:
    found = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        n = int(size or b"0", 16)
        if n == 0:
            break
        found, raw = found + raw[:n], raw[n + 2 :]
    return found


def responses(sock: socket.socket) -> Iterator[Reply]:
    """Responses with a Content-Length one after the other on a connection that stays open."""
    buffer = b""
    while True:
        while b"\r\n\r\n" not in buffer:
            piece = sock.recv(2**16)
            if not piece:
                return
            buffer += piece
        top, _, rest = buffer.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in top.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        while len(rest) < length:
            rest += sock.recv(2**16)
        yield parsed(top + b"\r\n\r\n" + rest[:length])
        buffer = rest[length:]


def soon(condition, seconds: float = 10.0) -> bool:  # noqa: ANN001
    """Whether `condition()` becomes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
