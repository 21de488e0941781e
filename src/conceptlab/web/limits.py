"""How much anybody may ask of the viewer at once: the size of what comes in, the size of what goes out, the length of an address.

A body is read whole before a page sees it, so no page can be fed more than `BODY` bytes, with or without a length given. What
goes out is cut into pieces that must drain one after the other (see protocol.py, which cuts slow readers off), so a large slice
never lies in the server twice.
"""

from conceptlab.web.guard import App, Message, Receive, Scope, Send, say

BODY = 2**20
PAGE = 16 * 2**20
SLICE = 64 * 2**20
ADDRESS = 32 * 2**10  # a prompt stands in the address of its page
PIECE = 256 * 2**10
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")  # which of them an address takes is its route's business


class Limits:
    """The middleware inside the guard. Sizes are bytes."""

    def __init__(
        self, app: App, *, body: int = BODY, page: int = PAGE, slice: int = SLICE, address: int = ADDRESS
    ) -> None:
        self.app, self.body, self.page, self.slice, self.address = app, body, page, slice, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self._refusal(scope)
        if refused is not None:
            allow = [(b"allow", ", ".join(METHODS).encode())] if refused[0] == 405 else []
            return await say(send, *refused, *allow)
        sending = Sending(send, self.page, self.slice)
        if not has_body(scope):
            return await self.app(scope, receive, sending)
        body = await self._read(receive)
        if body is None:
            return None
        if len(body) > self.body:
            return await say(send, 413, self._too_large())
        return await self.app(scope, replayed(body, receive), sending)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and line for a request that is refused before its body is read."""
        if scope["method"] not in METHODS:
            return 405, f"the viewer answers {', '.join(METHODS)} only"
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > self.address:
            return 414, f"the address is longer than {self.address} bytes; shorten the prompt"
        lengths = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        coded = any(name.lower() == b"transfer-encoding" for name, _ in scope["headers"])
        if len(set(lengths)) > 1 or (lengths and coded) or not all(value.isdigit() for value in lengths):
            return 400, "the request gives its length twice or wrongly"
        if lengths and (len(lengths[0]) > 15 or int(lengths[0]) > self.body):
            return 413, self._too_large()
        return None

    def _too_large(self) -> str:
        return f"the request's body is larger than {self.body} bytes; send less"

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or a part of it that is already too large; None where the client has gone."""
        body = bytearray()
        while len(body) <= self.body:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return bytes(body)


class Sending:
    """`send` with a limit: what is larger becomes one line (or, once it has begun, ends there), the rest goes in pieces."""

    def __init__(self, send: Send, page: int, slice: int) -> None:
        self._send, self._page, self._slice = send, page, slice
        self._start: Message | None = None
        self._limit, self._sent = page, 0
        self._refused = False

    async def __call__(self, message: Message) -> None:
        if self._refused:
            return None
        if message["type"] == "http.response.start":
            self._limit = self._slice if is_data(message) else self._page
            if (
                kind_of(message) == b"text/event-stream"
            ):  # nothing to wait for: the reader learns at once that it is connected
                return await self._send(message)
            self._start = message
            return None
        body = message.get("body", b"")
        self._sent += len(body)
        if self._sent > self._limit:
            return await self._refuse()
        if self._start is not None:
            start, self._start = self._start, None
            await self._send(start)
        return await self._send_pieces(message, body)

    async def _send_pieces(self, message: Message, body: bytes) -> None:
        view = memoryview(body)
        for at in range(0, max(1, len(body)), PIECE):
            last = at + PIECE >= len(body)
            more = message.get("more_body", False) or not last
            await self._send({"type": "http.response.body", "body": bytes(view[at : at + PIECE]), "more_body": more})

    async def _refuse(self) -> None:
        if self._start is None:
            raise TooLarge(f"an answer grew beyond {self._limit} bytes and was cut off")
        self._refused = True
        line = f"the answer would be larger than {self._limit // 2**20} MB; ask for a part of it"
        await say(self._send, 507, line)


class TooLarge(RuntimeError):
    """A streamed answer passed its limit; the connection is closed, so that nobody takes the part for the whole."""


def is_data(start: Message) -> bool:
    """Whether a response holds binary data, a stream or a file to save, not a page."""
    saved = header_of(start, b"content-disposition").startswith(b"attachment")
    return saved or kind_of(start) in (b"application/octet-stream", b"text/event-stream")


def kind_of(start: Message) -> bytes:
    """The media type of a response."""
    return header_of(start, b"content-type").split(b";")[0].strip()


def header_of(start: Message, wanted: bytes) -> bytes:
    """One header of a response; empty where it has none."""
    return next((value for name, value in start.get("headers", []) if name.lower() == wanted), b"")


def has_body(scope: Scope) -> bool:
    """Whether a body follows the request's headers."""
    given = {name.lower(): value for name, value in scope["headers"]}
    return b"transfer-encoding" in given or given.get(b"content-length", b"0").strip(b"0") != b""


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body that was read, and then whatever comes (the client's going)."""
    waiting = [body]

    async def receive_replayed() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_replayed
