"""The running server: where it listens, how its address is said, and how it ends at once when it is told to."""

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import uvicorn

from conceptlab.errors import InputError
from conceptlab.web.guard import App, Guard, GuardSettings, Receive, Scope, Send, is_loopback
from conceptlab.web.limits import Limits
from conceptlab.web.protocol import HEAD_BYTES, GuardedProtocol

PORT = 8765
TRIED = 20  # ports after the default one before any free one is taken
KEEP_ALIVE = 15  # seconds that an idle connection stays open
LOG_BYTES = 2**20
_BIND = {
    errno.EADDRINUSE: "is taken; choose another with --port, or leave --port out for a free one",
    errno.EACCES: "is reserved; choose one above 1023 with --port",
    errno.EADDRNOTAVAIL: "cannot be opened there: that is no address of this machine; leave --host out",
}


class ViewerServer(uvicorn.Server):
    """uvicorn that calls `on_start` once it answers, and closes every connection when it is stopped, streams too."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close at once: nothing that a page waits for is lost, since its address asks for it again."""
        self.force_exit = True
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)
        await super().shutdown(sockets)

    def stop(self) -> None:
        """End `run`; from any thread."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and a polite kill end the server; they are not raised again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def guarded(app: App, settings: GuardSettings) -> App:
    """The application as it may be reached: the guard outermost, then the limits."""
    return Guard(Limits(app), settings)


def server_of(
    app: App, settings: GuardSettings, *, on_start: Callable[[], None] = lambda: None,
    protocol: type[GuardedProtocol] = GuardedProtocol,
) -> ViewerServer:  # fmt: skip
    """A server of `app` behind guard and limits; `run(sockets=[listener])` runs it until it is told to stop."""
    config = uvicorn.Config(
        guarded(app, settings),
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=1,
    )
    return ViewerServer(config, on_start)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens: on `port`, or where none is asked for on 8765 or the next free one.

    Raises InputError for a taken or reserved port, a port out of range, or a host that is no address of this machine.
    """
    if port is not None and not 0 <= port <= 65535:
        raise InputError(f"--port {str(port)[:30]} is out of range; use 1 to 65535, or 0 for any free one")
    family, address = resolved(host)
    tried = [*range(PORT, PORT + TRIED), 0] if port is None else [port]
    for number in tried:
        try:
            return _bound(family, address, number)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and number != tried[-1]:
                continue
            why = _BIND.get(error.errno or 0, f"cannot be opened: {error.strerror or error}")
            raise InputError(f"port {number} of {address} {why}") from error
    raise AssertionError("the last port returns or raises")


def _bound(family: int, address: str, port: int) -> socket.socket:
    # named as TCP, since asyncio sends small answers at once (TCP_NODELAY) only where the socket says so: 40 ms an answer
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def resolved(host: str) -> tuple[int, str]:
    """Family and numeric address of `--host`. Raises InputError where it has none."""
    if host.strip("[]").lower() == "localhost":
        return socket.AF_INET, "127.0.0.1"
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        raise InputError(f"--host {host[:80]!r} is no host name or address; leave it out for 127.0.0.1") from error
    return int(found[0][0]), str(found[0][4][0])


def check_reach(host: str, allowed: list[str], token: str | None) -> None:
    """Raise InputError where the server could be reached from outside without a list of names and a token of the user's."""
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token):
        raise InputError(
            "--token needs at least 16 visible ASCII characters without spaces; leave it out for a random one"
        )
    if not is_loopback(resolved(host)[1]) and not (allowed and token):
        raise InputError(
            f"--host {host} can be reached from other machines: name the host names it answers to with --allow-host and choose a "
            "--token, or leave --host out and forward the port over SSH"
        )


def address_of(listener: socket.socket, token: str, named: str | None = None) -> str:
    """The address to open. `named`: under this host name."""
    host, port = listener.getsockname()[:2]
    shown = named or host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/?token={token}"


@contextmanager
def logged(folder: Path, *, verbose: bool = False) -> Iterator[None]:
    """Write what the server says into `viewer.log` in `folder` (1 MB, one older file); with `verbose` on standard error, too."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "conceptlab.web")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    handlers = [*_file_handlers(folder), *([logging.StreamHandler()] if verbose else [])] or [logging.NullHandler()]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    for logger in loggers:
        logger.handlers, logger.propagate = list(handlers), False
        logger.setLevel(logging.INFO if verbose else logging.ERROR)
    try:
        yield
    finally:
        for logger, (old, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = old, propagate
            logger.setLevel(level)
        for handler in handlers:
            handler.close()


def _file_handlers(folder: Path) -> list[logging.Handler]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [RotatingFileHandler(folder / "viewer.log", maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")]
    except OSError:  # a home that cannot be written costs the log only
        return []


class Later:
    """An application that another thread makes while the server already answers: a request waits until it is there.

    `make` gives the application and what closes it. Where it fails, the server is stopped and `finish` raises the failure.
    """

    def __init__(self, make: Callable[[], tuple[App, Callable[[], Any]]]) -> None:
        self._make = make
        self._made: Future[tuple[App, Callable[[], Any]]] = Future()

    def start(self, failed: Callable[[], Any]) -> None:
        """Begin to make it; call `failed` where that fails."""
        threading.Thread(target=self._run, args=(failed,), name="open-viewer", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, _ = await asyncio.shield(asyncio.wrap_future(self._made))
        await app(scope, receive, send)

    def finish(self) -> None:
        """Close the application where it was made. Raises what making it failed with."""
        if self._made.done():
            _, close = self._made.result()
            close()

    def _run(self, failed: Callable[[], Any]) -> None:
        try:
            self._made.set_result(self._make())
        except BaseException as error:  # raised again by `finish`, in the thread that can say it
            self._made.set_exception(error)
            failed()


def run(server: ViewerServer, listener: socket.socket, later: Later) -> None:
    """Make the application and serve it until the server is stopped. Raises what making it failed with."""
    later.start(server.stop)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        later.finish()
