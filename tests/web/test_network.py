"""The viewer from the network's side: forged names, foreign pages, missing tokens, odd requests, and people who never finish."""

import contextlib
import socket
import time

import pytest

from conceptlab.web.guard import POLICY, SECURITY_HEADERS
from conceptlab.web.protocol import GuardedProtocol
from tests.web.flood import flooded
from tests.web.garbage import garbage
from tests.web.wire import SECRET, Quick, Reply, Wire, drained, parsed, request_of, responses, soon

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND")
PATHS = ("/", "/concept/color", "/static/core.js", "/stream", "/slice/sized?n=10", "/boom", "/no/such/page")


@pytest.fixture(scope="module")
def wire():
    made = Wire(hosts=frozenset({"lab.example"}))
    yield made
    made.close()


def is_refused(reply: Reply, status: int = 403) -> bool:
    """One plain line, nothing of the page, and every security header."""
    one_line = reply.line.count("\n") == 1 and len(reply.line) < 200
    return reply.status == status and SECRET not in reply.line and one_line and is_secured(reply)


def is_secured(reply: Reply) -> bool:
    return all(reply.headers.get(name.decode()) == value.decode() for name, value in SECURITY_HEADERS)


# who may come in


def test_the_cookie_or_the_bearer_opens_every_page(wire: Wire) -> None:
    assert wire.ask("GET", "/").line == SECRET
    bearer = {"Authorization": f"Bearer {wire.settings.token}"}
    assert wire.ask("GET", "/", bearer, known=False).line == SECRET
    assert wire.ask("POST", "/echo", bearer, b"abc", known=False).line == "3 bytes"


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_nothing_is_read(wire: Wire, path: str) -> None:
    reply = wire.ask("GET", path, known=False)
    assert is_refused(reply)
    assert "use the address that the terminal printed" in reply.line


@pytest.mark.parametrize("method", METHODS)
def test_without_a_token_no_method_is_answered(wire: Wire, method: str) -> None:
    for path in ("/", "/static/core.js", "/stream", "/echo"):
        reply = wire.ask(method, path, known=False)
        assert reply.status == 403
        assert is_secured(reply)
        assert method == "HEAD" or is_refused(reply)


@pytest.mark.parametrize(
    "headers",
    [
        {"Cookie": "conceptlab-{port}=wrong"},
        {"Cookie": "conceptlab-{port}={token}"},
        {"Cookie": "conceptlab={session}"},
        {"Cookie": "conceptlab-1={session}"},
        {"Cookie": "conceptlab-{port}={session}x"},
        {"Cookie": "conceptlab-{port}="},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer {session}"},
        {"Authorization": "Basic {token}"},
        {"Authorization": "{token}"},
        {"Authorization": "Bearer \u00e9{token}"},
    ],
)
def test_a_wrong_token_is_refused(wire: Wire, headers: dict[str, str]) -> None:
    words = {"port": wire.port, "token": wire.settings.token, "session": wire.settings.session}
    assert is_refused(
        wire.ask("GET", "/", {name: value.format(**words) for name, value in headers.items()}, known=False)
    )


def test_the_cookie_of_an_earlier_run_is_refused(wire: Wire) -> None:
    from conceptlab.web.guard import GuardSettings

    old = GuardSettings("token-of-yesterday").session
    assert is_refused(wire.ask("GET", "/", {"Cookie": f"conceptlab-{wire.port}={old}"}, known=False))


def test_the_token_in_the_address_becomes_a_cookie_and_vanishes(wire: Wire) -> None:
    reply = wire.ask("GET", f"/concept/a%20b?layer=3&token={wire.settings.token}&as=json", known=False)
    assert (reply.status, reply.headers["location"]) == (303, "/concept/a%20b?layer=3&as=json")
    assert wire.settings.token not in reply.line
    (cookie,) = reply.cookies
    value, *flags = cookie.split("; ")
    assert set(flags) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert wire.settings.token not in value
    assert is_secured(reply)
    assert wire.ask("GET", "/", {"Cookie": value}, known=False).line == SECRET


def test_a_stale_token_in_the_address_of_somebody_known_is_only_refused(wire: Wire) -> None:
    assert wire.ask("GET", "/?token=old").status == 303, "who has the cookie is led on"
    assert is_refused(wire.ask("GET", "/?token=old", known=False))
    assert "expired" in wire.ask("GET", "/?token=old", known=False).line


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_a_token_in_the_address_lets_nobody_write(wire: Wire, method: str) -> None:
    assert is_refused(wire.ask(method, f"/echo?token={wire.settings.token}", known=False))


def test_a_ticket_works_once_and_for_a_minute(wire: Wire) -> None:
    ticket = wire.settings.ticket()
    assert wire.ask("GET", f"/?token={ticket}", known=False).status == 303
    assert is_refused(wire.ask("GET", f"/?token={ticket}", known=False))
    late = wire.settings.ticket()
    wire.now[0] += 61
    assert is_refused(wire.ask("GET", f"/?token={late}", known=False))


@pytest.mark.parametrize("target", ["//evil.example/x", "/\\evil.example/x", "///evil.example", "/\\/evil.example"])
def test_the_exchange_never_leads_to_another_server(wire: Wire, target: str) -> None:
    reply = wire.ask("GET", f"{target}?token={wire.settings.token}", known=False)
    assert reply.status in (303, 400)
    where = reply.headers.get("location", "/")
    assert where.startswith("/")
    assert where[1:2] not in ("/", "\\")


# whose name it is called by

FORGED = [
    "evil.example",
    "evil.example:{port}",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example",
    "evil-localhost",
    "0.0.0.0:{port}",
    "192.168.0.7:{port}",
    "127.1:{port}",
    "2130706433",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "127.0.0.1@evil.example",
    "evil.example#127.0.0.1",
    "[::]:{port}",
    "[::ffff:7f00:1]",
    "[::1",
    "::1",
    "127.0.0.1:99999",
    "127.0.0.1:",
    "localhost:80:80",
    "127.0.0.1,evil.example",
    "localhost.",
    "lab.example.evil.example",
    "*",
    "127.0.0.256",
    "xn--lcalhost-54a",
] + ["127.0.0.1 evil.example", ""]


@pytest.mark.parametrize("host", FORGED)
def test_a_forged_or_rebound_host_name_is_refused_even_with_the_cookie(wire: Wire, host: str) -> None:
    name = host.format(port=wire.port)
    cookies = "; ".join(
        f"conceptlab-{port}={wire.settings.session}" for port in (wire.port, 80)
    )  # as if the browser had it for that name
    for method, path in (("GET", "/"), ("GET", "/static/core.js"), ("DELETE", "/echo"), ("GET", "/stream")):
        reply = wire.ask(method, path, {"Host": name, "Cookie": cookies, "Origin": f"http://{name}"})
        assert reply.status in (400, 403)
        assert SECRET not in reply.line


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:{port}", "127.0.0.1", "127.8.9.10:4000", "[::1]:{port}", "lab.example:8765"]
)
def test_loopback_names_of_any_port_and_allowed_names_are_answered(wire: Wire, host: str) -> None:
    name = host.format(port=wire.port)
    bearer = {"Host": name, "Authorization": f"Bearer {wire.settings.token}", "Origin": f"http://{name}"}
    assert wire.ask("GET", "/", bearer, known=False).line == SECRET


def test_the_cookie_is_named_after_the_port_that_the_browser_sees(wire: Wire) -> None:
    reply = wire.ask("GET", f"/?token={wire.settings.token}", {"Host": "localhost:9001"}, known=False)
    assert reply.cookies[0].startswith("conceptlab-9001=")


@pytest.mark.parametrize(
    "lines",
    [
        b"Host: 127.0.0.1\r\nHost: 127.0.0.1",
        b"Host: 127.0.0.1\r\nHost: evil.example",
        b"Host: evil.example\r\nhost: 127.0.0.1",
        b"X-Forwarded-Host: 127.0.0.1",
        b"Host : 127.0.0.1",
        b" Host: 127.0.0.1",
    ],
)
def test_a_host_given_twice_or_oddly_or_not_at_all_is_refused(wire: Wire, lines: bytes) -> None:
    reply = parsed(wire.raw(b"GET / HTTP/1.1\r\n" + lines + b"\r\nCookie: " + wire.cookie.encode() + b"\r\n\r\n"))
    assert is_refused(reply, 400)


def test_an_old_client_that_names_no_host_is_refused(wire: Wire) -> None:
    assert is_refused(parsed(wire.raw(f"GET / HTTP/1.0\r\nCookie: {wire.cookie}\r\n\r\n".encode())))


def test_forwarding_headers_are_not_believed(wire: Wire) -> None:
    forged = {
        "Host": "evil.example",
        "X-Forwarded-Host": wire.host,
        "Forwarded": "host=localhost",
        "X-Forwarded-For": "127.0.0.1",
    }
    assert is_refused(wire.ask("GET", "/", forged))


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/", "http://evil.example/", "https://localhost/x", "evil.example:80", "*", "index"],
)
def test_a_target_that_is_no_path_is_refused(wire: Wire, target: str) -> None:
    for method in ("GET", "OPTIONS", "CONNECT"):
        reply = wire.ask(method, target)
        assert reply.status == 400
        assert is_refused(reply, 400)


# whose page asks


@pytest.mark.parametrize(
    "origin",
    ["null", "http://evil.example", "https://evil.example", "http://127.0.0.1:1", "http://localhost:{port}", "http://{host}.evil.example",
     "file://", "chrome-extension://abc", "http://{host}/", "", "http://{host}, http://evil.example", "ws://{host}"],
)  # fmt: skip
def test_a_foreign_origin_is_refused_for_every_method(wire: Wire, origin: str) -> None:
    given = {"Origin": origin.format(port=wire.port, host=wire.host)}
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert is_refused(wire.ask(method, "/echo" if method != "GET" else "/", given))


def test_its_own_origin_is_accepted(wire: Wire) -> None:
    for scheme in ("http", "https", "HTTP"):
        assert wire.ask("GET", "/", {"Origin": f"{scheme}://{wire.host}"}).status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "odd", "", "none, cross-site"])
def test_a_request_that_another_site_caused_is_refused(wire: Wire, site: str) -> None:
    for mode, kind in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("navigate", "document")):
        given = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": kind}
        assert is_refused(wire.ask("GET", "/", given))
        if kind != "document":
            assert is_refused(wire.ask("GET", f"/?token={wire.settings.token}", given, known=False))


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_its_own_pages_and_the_user_are_answered(wire: Wire, site: str) -> None:
    assert wire.ask("GET", "/", {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors"}).status == 200


def test_a_link_with_the_token_on_another_page_opens_the_viewer(wire: Wire) -> None:
    given = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    reply = wire.ask("GET", f"/concept/x?q=%22%3E%3Cscript%3E&token={wire.settings.token}", given, known=False)
    assert reply.status == 200
    assert '<meta http-equiv="refresh" content="0; url=/concept/x?q=%22%3E%3Cscript%3E">' in reply.line
    assert "<script" not in reply.line
    assert "SameSite=Strict" in reply.cookies[0]
    assert is_secured(reply)
    assert is_refused(wire.ask("GET", "/?token=wrong", given, known=False))


def test_nobody_is_granted_cross_origin_reading(wire: Wire) -> None:
    for reply in (wire.ask("GET", "/"), wire.ask("OPTIONS", "/", {"Access-Control-Request-Method": "GET"})):
        assert not [name for name in reply.headers if name.startswith("access-control")]


# other protocols and odd requests


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0"])
def test_an_upgrade_is_refused(wire: Wire, protocol: str) -> None:
    given = {"Upgrade": protocol, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    request = request_of("GET", "/", {"Host": wire.host, **wire.known, **given, "Connection": "Upgrade, close"})
    assert is_refused(parsed(wire.raw(request)))


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PATCH", "PROPFIND", "CONNECT", "get", "G3T"])
def test_other_methods_are_not_allowed(wire: Wire, method: str) -> None:
    assert is_refused(wire.ask(method, "/"), 405)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/"), ("DELETE", "/static/core.js"), ("PUT", "/stream"), ("GET", "/echo")]
)
def test_a_method_that_the_route_does_not_take_is_not_allowed(wire: Wire, method: str, path: str) -> None:
    reply = wire.ask(method, path)
    assert reply.status == 405
    assert is_secured(reply)


def test_head_gives_headers_only(wire: Wire) -> None:
    reply = wire.ask("HEAD", "/")
    assert (reply.status, reply.body) == (200, b"")


def test_every_answer_has_the_security_headers(wire: Wire) -> None:
    assert "unsafe" not in POLICY
    large = "/page/sized?n=17000000"
    asked = [("GET", "/", 200), ("GET", "/x", 404), ("PATCH", "/", 405), ("GET", "/boom", 500), ("GET", large, 507)]
    for method, path, status in asked:
        reply = wire.ask(method, path)
        assert reply.status == status
        assert is_secured(reply)
        assert reply.headers["cache-control"] == "no-store"
        assert "server" not in reply.headers


def test_an_error_of_a_page_shows_no_trace(wire: Wire) -> None:
    assert "secret of the trace" not in wire.ask("GET", "/boom").line


def test_pipelined_requests_are_answered_in_order(wire: Wire) -> None:
    good = request_of("GET", "/", {"Host": wire.host, **wire.known})
    bad = request_of("GET", "/", {"Host": "evil.example", **wire.known})
    with wire.connect() as sock:
        sock.sendall((good + bad) * 20)
        answers = responses(sock)
        found = [next(answers).status for _ in range(40)]
    assert found == [200, 403] * 20


def test_the_guard_asks_again_for_every_request_of_a_connection(wire: Wire) -> None:
    with wire.connect() as sock:
        answers = responses(sock)
        sock.sendall(request_of("GET", "/", {"Host": wire.host, **wire.known}))
        assert next(answers).status == 200
        sock.sendall(request_of("GET", "/", {"Host": wire.host}))
        assert next(answers).status == 403


def test_garbage_is_answered_with_400_or_the_end_of_the_connection(wire: Wire) -> None:
    for bytes_ in garbage(150):
        with wire.connect() as sock:
            try:
                sock.sendall(bytes_)
                sock.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass
            got = drained(sock)
        assert not got or parsed(got).status in (400, 403)
        assert SECRET.encode() not in got
    assert wire.ask("GET", "/").status == 200


def test_garbage_after_a_good_request_does_not_harm_it(wire: Wire) -> None:
    with wire.connect() as sock:
        sock.sendall(request_of("GET", "/", {"Host": wire.host, **wire.known}) + b"\0\1\2 garbage\r\n\r\n")
        raw = drained(sock)
    assert parsed(raw).status in (200, 400)
    assert wire.ask("GET", "/").status == 200


# sizes


def test_a_body_up_to_the_limit_is_taken_and_one_byte_more_is_not(wire: Wire) -> None:
    assert wire.ask("POST", "/echo", body=bytes(2**20)).line == f"{2**20} bytes"
    reply = keeping(wire, "POST", {"Content-Length": str(2**20 + 1)}, bytes(2**20 + 1))
    assert is_refused(reply, 413)


def test_a_body_without_a_length_is_counted(wire: Wire) -> None:
    piece = b"10000\r\n" + bytes(2**16) + b"\r\n"
    coded = {"Transfer-Encoding": "chunked"}
    assert (keeping(wire, "PUT", coded, piece * 16 + b"0\r\n\r\n")).line == f"{2**20} bytes"
    assert is_refused((keeping(wire, "PUT", coded, piece * 16 + b"1\r\nx\r\n0\r\n\r\n")), 413)
    assert is_refused((keeping(wire, "PUT", coded, piece * 30)), 413)


def keeping(wire: Wire, method: str, headers: dict[str, str], body: bytes) -> Reply:
    """The first answer on a connection that the client would keep open."""
    with wire.connect() as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request_of(method, "/echo", {"Host": wire.host, **wire.known, **headers}) + body)
        return next(responses(sock))


@pytest.mark.parametrize("headers", [
    {"Content-Length": "-1"}, {"Content-Length": "abc"}, {"Content-Length": "1e9"}, {"Content-Length": "9" * 40},
    {"Content-Length": "5", "Transfer-Encoding": "chunked"}, {"Content-Length": "5, 6"}, {"Transfer-Encoding": "gzip, chunked"},
])  # fmt: skip
def test_odd_lengths_are_refused(wire: Wire, headers: dict[str, str]) -> None:
    with wire.connect() as sock:
        sock.sendall(request_of("POST", "/echo", {"Host": wire.host, **wire.known, **headers}))
        reply = parsed(sock.recv(2**16) or drained(sock))
    assert reply.status in (400, 413, 501)
    assert is_secured(reply)


def test_a_client_that_asks_before_it_sends_too_much_is_told_not_to(wire: Wire) -> None:
    headers = {"Host": wire.host, **wire.known, "Content-Length": str(2**30), "Expect": "100-continue"}
    with wire.connect() as sock:
        sock.sendall(request_of("POST", "/echo", headers))
        first = sock.recv(2**16)
    assert parsed(first).status == 413


@pytest.mark.parametrize(("length", "status"), [(30_000, 200), (33_000, 414), (200_000, 400)])
def test_addresses_have_a_limit(wire: Wire, length: int, status: int) -> None:
    assert wire.ask("GET", f"/?prompt={'a' * length}").status == status


def test_answers_have_a_limit(wire: Wire) -> None:
    assert len(wire.ask("GET", f"/page/sized?n={16 * 2**20}").body) == 16 * 2**20
    assert is_refused(wire.ask("GET", f"/page/sized?n={16 * 2**20 + 1}"), 507)
    assert len(wire.ask("GET", f"/slice/sized?n={64 * 2**20}").body) == 64 * 2**20
    assert is_refused(wire.ask("GET", f"/slice/sized?n={64 * 2**20 + 1}"), 507)


def test_a_streamed_page_that_grows_too_large_is_cut_off_and_not_ended(wire: Wire) -> None:
    raw = wire.raw(request_of("GET", "/flood", {"Host": wire.host, **wire.known}))
    assert raw.startswith(b"HTTP/1.1 200")
    assert len(raw) < 17 * 2**20
    assert not raw.endswith(b"0\r\n\r\n")


# people who never finish


def seconds_until_closed(sock: socket.socket, dribble: bytes = b"") -> float:
    """How long the server bears a connection on which a byte comes now and then."""
    begun = time.monotonic()
    sock.settimeout(0.1)
    for at in range(200):
        try:
            if at < len(dribble):
                sock.sendall(dribble[at : at + 1])
            if not sock.recv(2**16):
                break
        except TimeoutError:
            continue
        except ConnectionError:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("start", ["", "GET / HTTP/1.1\r\nHost: {host}\r\nX-Slow: "])
def test_slow_headers_are_cut_off(wire: Wire, start: str) -> None:
    with wire.connect() as sock:
        sock.sendall(start.format(host=wire.host).encode())
        assert 0.5 <= seconds_until_closed(sock, b"x" * 200) < 6


def test_a_slow_body_is_cut_off_and_never_reaches_a_page(wire: Wire) -> None:
    with wire.connect() as sock:
        sock.sendall(request_of("POST", "/echo", {"Host": wire.host, **wire.known, "Content-Length": "1000"}))
        assert 0.5 <= seconds_until_closed(sock, b"x" * 200) < 6


def test_a_slow_second_request_of_a_connection_is_cut_off(wire: Wire) -> None:
    with wire.connect() as sock:
        sock.sendall(request_of("GET", "/", {"Host": wire.host, **wire.known}))
        assert next(responses(sock)).status == 200
        assert 0.5 <= seconds_until_closed(sock, b"GET / HTTP/1.1\r\nX: " + b"x" * 200) < 6


def slow_reader(wire: Wire, target: str) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", wire.port))
    sock.sendall(request_of("GET", target, {"Host": wire.host, **wire.known}))
    return sock


@pytest.mark.parametrize("target", [f"/slice/sized?n={60 * 2**20}", "/stream?n=1000000"])
def test_a_slow_reader_is_cut_off_and_gets_a_part_only(wire: Wire, target: str) -> None:
    with slow_reader(wire, target) as sock:
        assert soon(lambda: len(wire.server.server_state.connections) > 0)
        assert soon(lambda: not wire.server.server_state.connections, 15)
        assert len(drained(sock)) < 30 * 2**20
    assert wire.ask("GET", "/").status == 200


def test_a_reader_of_a_stream_who_leaves_ends_it(wire: Wire) -> None:
    wire.seen.clear()
    with wire.connect() as sock:
        sock.sendall(request_of("GET", "/stream", {"Host": wire.host, **wire.known}))
        assert b"data: " in sock.recv(2**16) + sock.recv(2**16)
        assert "stream ended" not in wire.seen
    assert soon(lambda: "stream ended" in wire.seen)


def test_a_stream_outlives_the_deadlines_of_requests(wire: Wire) -> None:
    with wire.connect() as sock:
        sock.sendall(request_of("GET", "/stream", {"Host": wire.host, **wire.known}))
        end = time.monotonic() + 2.5 * Quick.request_seconds
        while time.monotonic() < end:
            assert sock.recv(2**16)


def test_too_many_connections_are_turned_away_and_room_comes_back(wire: Wire) -> None:
    held = [wire.connect() for _ in range(Quick.most_connections)]
    assert soon(lambda: len(wire.server.server_state.connections) >= Quick.most_connections)
    reply = parsed(wire.raw(b""))
    assert is_refused(reply, 503)
    assert soon(lambda: not wire.server.server_state.connections, 15), "idle ones are closed in time"
    assert wire.ask("GET", "/").status == 200
    for sock in held:
        sock.close()


def test_a_flood_of_garbage_does_not_keep_a_reader_from_the_page() -> None:
    wire = Wire(protocol=GuardedProtocol)
    found = flooded(wire.port, {"Host": wire.host, **wire.known}, per_second=150, seconds=2)
    assert found.thrown == 300
    assert found.failed == 0
    assert len(found.looks) >= 3
    assert found.refused == 0
    assert soon(lambda: not wire.server.server_state.connections, 20), "nothing of it stays"
    assert wire.ask("GET", "/").status == 200
    wire.close()
