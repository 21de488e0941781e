"""The HTTP connection of the viewer: who sends or reads too slowly is cut off, and too many at once are turned away.

A request's headers and body must be there `REQUEST_SECONDS` after its first byte (after the connection was opened, for the first
one); what is sent must leave the buffer in `DRAIN_SECONDS`; after a response nothing may stick in it for longer.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from conceptlab.web.guard import SECURITY_HEADERS, UNCACHED

REQUEST_SECONDS = 10.0
DRAIN_SECONDS = 20.0
MOST_CONNECTIONS = 256
HEAD_BYTES = 64 * 2**10


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with deadlines and a limit on connections."""

    request_seconds = REQUEST_SECONDS
    drain_seconds = DRAIN_SECONDS
    most_connections = MOST_CONNECTIONS

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._incoming: asyncio.TimerHandle | None = None
        self._outgoing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, or turn the connection away."""
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.write(
                refusal(503, b"Service Unavailable", b"too many connections; close some tabs of the viewer")
            )
            transport.close()
            self._wait_for_drain()
        else:
            self._watch_request()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        super().data_received(data)
        self._watch_request()

    def on_response_complete(self) -> None:
        """What was sent must leave soon; a request that is already there may be incomplete."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._watch_request()
        if self.transport.get_write_buffer_size():
            self._wait_for_drain()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        self._stop_incoming()
        self._stop_outgoing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The buffer is full: it must drain in time."""
        super().pause_writing()
        self._wait_for_drain()

    def resume_writing(self) -> None:
        """The buffer has drained."""
        super().resume_writing()
        self._stop_outgoing()

    def send_400_response(self, msg: str) -> None:
        """Say that this was no HTTP and close; after the start of another answer only close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            self.transport.write(refusal(400, b"Bad Request", msg.encode("ascii", "replace")))
        self.transport.close()
        self._wait_for_drain()

    def _watch_request(self) -> None:
        """Run the clock exactly while a request has begun and is not complete."""
        theirs = self.conn.their_state
        begun = theirs is h11.SEND_BODY or bool(self.conn.trailing_data[0]) or self.cycle is None
        if theirs in (h11.IDLE, h11.SEND_BODY) and begun and not self.transport.is_closing():
            if self._incoming is None:
                self._incoming = self.loop.call_later(self.request_seconds, self.transport.abort)
        else:
            self._stop_incoming()

    def _wait_for_drain(self) -> None:
        if self._outgoing is None:
            self._outgoing = self.loop.call_later(self.drain_seconds, self._cut_off, self.cycle)

    def _cut_off(self, cycle: Any) -> None:
        """Abort unless the buffer has drained, or holds the beginning of a later answer."""
        self._outgoing = None
        stuck = self.cycle is cycle and self.transport.get_write_buffer_size() > 0
        if stuck or self.flow.write_paused or self.transport.is_closing():
            self.transport.abort()

    def _stop_incoming(self) -> None:
        if self._incoming is not None:
            self._incoming.cancel()
            self._incoming = None

    def _stop_outgoing(self) -> None:
        if self._outgoing is not None:
            self._outgoing.cancel()
            self._outgoing = None


def refusal(status: int, phrase: bytes, line: bytes) -> bytes:
    """A whole response that closes the connection, with the security headers."""
    body = line + b"\n"
    headers = (
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        UNCACHED,
        *SECURITY_HEADERS,
    )
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 " + str(status).encode() + b" " + phrase + b"\r\n" + lines + b"\r\n" + body
