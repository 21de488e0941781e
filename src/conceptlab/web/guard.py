"""Who may talk to the viewer: asked on every request, of every method, for every path, before anything else is looked at.

Three questions, none of which trusts the others. Is the server addressed by a name of this machine (or one that was allowed), so
that a foreign site cannot rebind its own name to it? Does the request come from the viewer's own pages, not from another site
or another local server (Origin, Sec-Fetch-Site)? Does it know the token of this run: as a cookie, as a bearer, or once in the
address, where it is exchanged for the cookie and vanishes?
"""

import hashlib
import hmac
import ipaddress
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlencode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)
UNCACHED = (b"cache-control", b"no-store")
NEXT = "use the address that the terminal printed"
TICKET_SECONDS = 60.0
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")


def new_token() -> str:
    """A token that cannot be guessed (256 bits), fit for an address."""
    return secrets.token_urlsafe(32)


@dataclass
class GuardSettings:
    """The token of this run and the host names beside loopback under which the server may be addressed."""

    token: str
    hosts: frozenset[str] = frozenset()
    clock: Callable[[], float] = time.monotonic
    _tickets: dict[str, float] = field(default_factory=dict)

    @property
    def session(self) -> str:
        """What the cookie holds: made from the token, which cannot be found from it."""
        return hmac.new(self.token.encode(), b"conceptlab viewer session", hashlib.sha256).hexdigest()

    def ticket(self) -> str:
        """A token for one use within a minute: for a program's arguments, which other users of the machine can read."""
        made = new_token()
        self._tickets[made] = self.clock() + TICKET_SECONDS
        return made

    def admits(self, token: str) -> bool:
        """Whether a token from an address is right; a ticket is used up by this."""
        if same(token, self.token):
            return True
        now = self.clock()
        found = [ticket for ticket in list(self._tickets) if same(token, ticket)]
        fresh = [ticket for ticket in found if self._tickets.pop(ticket, 0.0) > now]
        return bool(fresh)


class Guard:
    """The middleware: refuses with 403 and one plain line, and puts the security headers on every response."""

    def __init__(self, app: App, settings: GuardSettings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "the viewer speaks no WebSocket"})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self._answer(Asked(scope), scope, receive, secured(send))

    async def _answer(self, asked: "Asked", scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(asked)
        if refused is not None:
            await say(send, *refused)
        elif asked.token is not None:
            await self._exchange(asked, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, asked: "Asked") -> tuple[int, str] | None:
        """Status and line, or None for a request that may pass."""
        if not asked.target.startswith("/"):
            return 400, "the request does not name a path on this server"
        if asked.header(b"upgrade") is not None:
            return 403, "the viewer speaks no WebSocket and no other protocol than HTTP"
        if asked.host is None or not self._is_ours(asked.host[0]):
            return 403, f"this server does not answer to that host name; {NEXT}, or start it with --allow-host"
        if not asked.same_origin():
            return 403, f"the request comes from another site; {NEXT}"
        known, right = self._known(asked), self._has_right_token(asked)
        if not asked.same_site() and not (asked.is_navigation() and right):
            return 403, f"the request comes from another site; {NEXT}"
        if not known and not right:
            what = "the token is wrong or has expired" if asked.token is not None else "the token is missing or wrong"
            return 403, f"{what}; {NEXT}"
        return None

    def _is_ours(self, name: str) -> bool:
        return is_loopback(name) or name in self.settings.hosts

    def _known(self, asked: "Asked") -> bool:
        """Whether the request has the cookie of this run or bears its token."""
        bearer = asked.header(b"authorization") or ""
        if bearer[:7].lower() == "bearer " and same(bearer[7:].strip(), self.settings.token):
            return True
        return any(same(value, self.settings.session) for value in asked.cookies(asked.cookie_name))

    def _has_right_token(self, asked: "Asked") -> bool:
        """Whether the address of a page holds a right token (only reading is let in by an address)."""
        return asked.token is not None and asked.method in ("GET", "HEAD") and self.settings.admits(asked.token)

    async def _exchange(self, asked: "Asked", send: Send) -> None:
        """Give the cookie and lead to the same address without its token.

        A browser that comes from another site would follow a redirect without the new cookie: it gets a page that goes on.
        """
        secure = "; Secure" if asked.scheme == "https" else ""
        cookie = f"{asked.cookie_name}={self.settings.session}; Path=/; HttpOnly; SameSite=Strict{secure}".encode()
        where = asked.without_token()
        if asked.same_site():
            await say(
                send, 303, "see the same address without its token", (b"location", where), (b"set-cookie", cookie)
            )
        else:
            await respond(send, 200, b"text/html; charset=utf-8", onward(where), (b"set-cookie", cookie))


class Asked:
    """What a request says of itself."""

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.scheme: str = scope.get("scheme", "http")
        self.target: str = bytes(scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        self.query: bytes = scope["query_string"]
        self._headers: list[tuple[bytes, bytes]] = [(name.lower(), value) for name, value in scope["headers"]]
        self.host = parsed_host(self.header(b"host"))
        pairs = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace")
        self.token = next((value for name, value in pairs if name == "token"), None)

    def header(self, name: bytes) -> str | None:
        """A header's value; a repeated one reads as its values joined by a comma, which is never right."""
        values = [value.decode("latin-1") for key, value in self._headers if key == name]
        return ",".join(values) if values else None

    def cookies(self, name: str) -> Iterable[str]:
        """Every value of a cookie."""
        for part in (self.header(b"cookie") or "").replace(",", ";").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value

    @property
    def cookie_name(self) -> str:
        """Named after the port that the browser sees, since cookies do not keep ports apart."""
        return f"conceptlab-{self.host[1] if self.host else 0}"

    def same_origin(self) -> bool:
        """Whether the Origin, where one is sent, is this server's own; `null` never is."""
        origin, host = self.header(b"origin"), (self.header(b"host") or "").lower()
        return origin is None or origin.lower() in (f"http://{host}", f"https://{host}")

    def same_site(self) -> bool:
        """Whether the browser says that the viewer's own page or the user asked (older browsers say nothing)."""
        return self.header(b"sec-fetch-site") in (None, "same-origin", "none")

    def is_navigation(self) -> bool:
        """Whether a browser opens the address as a page of its own, not inside one."""
        top = self.header(b"sec-fetch-mode") == "navigate" and self.header(b"sec-fetch-dest") == "document"
        return top and self.method == "GET"

    def without_token(self) -> bytes:
        """The same address without its token; it always stays on this server."""
        pairs = parse_qsl(self.query.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace")
        query = urlencode([(name, value) for name, value in pairs if name != "token"], errors="replace")
        path = "/" + self.target.lstrip("/\\")
        return f"{path}?{query}".encode("latin-1") if query else path.encode("latin-1")


def parsed_host(host: str | None) -> tuple[str, int] | None:
    """Name in lower case, without brackets, and port of a Host header; None where it is not one."""
    found = _HOST.fullmatch((host or "").lower())
    if found is None:
        return None
    port = int(found["port"] or 80)
    return (found["name"].strip("[]"), port) if port <= 65535 else None


def is_loopback(name: str) -> bool:
    """Whether a host name is this machine's own: localhost, 127.0.0.0/8 in four numbers, or ::1."""
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback if address.version == 4 else address == ipaddress.ip_address("::1")


def same(given: str, right: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode("utf-8", "replace"))


def onward(where: bytes) -> bytes:
    """A page without script that goes on to `where`, as the viewer's own and with the cookie."""
    from html import escape

    to = escape(where.decode("latin-1"), quote=True)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>conceptlab</title>'
        f'<meta http-equiv="refresh" content="0; url={to}"></head><body><p><a href="{to}">Open the viewer</a></p></body></html>\n'
    ).encode()


def secured(send: Send) -> Send:
    """`send` that puts the security headers on the response in place of any that are there."""

    async def send_secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = {name for name, _ in SECURITY_HEADERS}
            headers = [(name, value) for name, value in message.get("headers", []) if name.lower() not in ours]
            if not any(name.lower() == UNCACHED[0] for name, _ in headers):
                headers.append(UNCACHED)
            message = {**message, "headers": [*headers, *SECURITY_HEADERS]}
        await send(message)

    return send_secured


async def say(send: Send, status: int, line: str, *headers: tuple[bytes, bytes]) -> None:
    """Answer with one plain line."""
    await respond(send, status, b"text/plain; charset=utf-8", f"{line}\n".encode(), *headers)


async def respond(send: Send, status: int, kind: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole response."""
    length = (b"content-length", str(len(body)).encode())
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind), length, *headers]}
    )
    await send({"type": "http.response.body", "body": body})
