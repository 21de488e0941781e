"""`conceptlab view`: where it listens, whom it lets in from afar, what it says, and that it ends at once when it is told to."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest

from conceptlab.cli import main, viewing
from conceptlab.cli.options import ModelOptions
from conceptlab.errors import InputError, RunError
from conceptlab.web import serving
from conceptlab.web.guard import GuardSettings
from conceptlab.web.serving import Later, address_of, check_reach, listen, logged, run, server_of
from tests.web.wire import SECRET, soon, stand_in

CONCEPTLAB = [sys.executable, "-c", "import sys; from conceptlab.cli import main; sys.exit(main())"]
LINE = re.compile(
    r"conceptlab view: (http://[^ ]+/\?token=[\w-]{43}) \(Ctrl-C ends it; over SSH, .*ssh -N -L \d+:127.0.0.1:\d+ .+\)\n"
)


# where it listens


def test_the_default_port_or_the_next_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        monkeypatch.setattr(serving, "PORT", port)
        with listen("localhost", None) as second, listen("127.0.0.1", None) as third:
            found = [each.getsockname()[1] for each in (second, third)]
            assert all(port < each for each in found)
            assert len(set(found)) == 2


def test_where_all_of_them_are_taken_any_free_port_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as taken:
        monkeypatch.setattr(serving, "PORT", taken.getsockname()[1])
        monkeypatch.setattr(serving, "TRIED", 1)
        with listen("127.0.0.1", None) as found:
            assert found.getsockname()[1] != taken.getsockname()[1]


def test_a_port_that_was_asked_for_and_is_taken_is_refused() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} of 127.0.0.1 is taken; choose another with --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_a_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(InputError, match="out of range; use 1 to 65535"):
        listen("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match="no address of this machine"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize("host", ["not a host", "a" * 300, "", "127.0.0.1.5.6", "[::1"])
def test_a_bad_host_is_one_line(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(serving.socket, "getaddrinfo", nobody)
    with pytest.raises(InputError, match="no host name or address") as error:
        listen(host, 0)
    assert "\n" not in str(error.value)


def test_the_address_names_host_port_and_token() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, "t") == f"http://127.0.0.1:{port}/?token=t"
        assert address_of(listener, "t", "lab.example") == f"http://lab.example:{port}/?token=t"
        assert address_of(listener, "t", "fd00::1") == f"http://[fd00::1]:{port}/?token=t"


# whom it lets in from afar

LONG = "a-token-of-the-user"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
@pytest.mark.parametrize(("allowed", "token"), [([], None), (["lab.example"], None), ([], LONG)])
def test_reach_from_outside_needs_names_and_a_token(host: str, allowed: list[str], token: str | None) -> None:
    with pytest.raises(InputError, match="--allow-host"):
        check_reach(host, allowed, token)
    check_reach(host, ["lab.example"], LONG)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.3.2.1", "::1", "[::1]"])
def test_this_machine_needs_neither(host: str) -> None:
    check_reach(host, [], None)


@pytest.mark.parametrize(
    "token", ["", "short", "x" * 15, "with space in the middle", "\u00fc" * 20, "line\nbreak-and-more-of-it"]
)
def test_a_weak_token_is_refused(token: str) -> None:
    with pytest.raises(InputError, match="--token needs at least 16"):
        check_reach("127.0.0.1", [], token)


# how it runs


class Running:
    """The server of a stand-in in a thread."""

    def __init__(self, make) -> None:  # noqa: ANN001
        self.listener = listen("127.0.0.1", 0)
        self.settings = GuardSettings(LONG)
        self.later, self.failure = Later(make), None
        started = threading.Event()
        self.server = server_of(self.later, self.settings, on_start=started.set)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert started.wait(20)

    def _run(self) -> None:
        try:
            run(self.server, self.listener, self.later)
        except Exception as error:  # noqa: BLE001
            self.failure = error

    def read(self, path: str = "/") -> str:
        url = f"http://127.0.0.1:{self.listener.getsockname()[1]}{path}"
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {LONG}"})
        with urllib.request.urlopen(asked, timeout=20) as reply:
            return reply.read().decode()


def test_the_server_answers_before_the_application_is_made_and_requests_wait_for_it() -> None:
    ready, closed = threading.Event(), threading.Event()

    def make():  # noqa: ANN202
        assert ready.wait(20)
        return stand_in([]), closed.set

    running = Running(make)
    with socket.create_connection(running.listener.getsockname()) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert b" 403 " in stranger.recv(4096), "the guard is there from the first moment"
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(running.read()))
    reader.start()
    time.sleep(0.1)
    assert not found
    ready.set()
    reader.join(20)
    assert found == [SECRET]
    running.server.stop()
    running.thread.join(20)
    assert closed.is_set()
    assert running.failure is None


def test_small_answers_are_sent_at_once() -> None:
    running = Running(lambda: (stand_in([]), lambda: None))
    with socket.create_connection(running.listener.getsockname()):
        assert soon(lambda: bool(running.server.server_state.connections))
        (connection,) = running.server.server_state.connections
        held = connection.transport.get_extra_info("socket")
        assert held.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    running.server.stop()
    running.thread.join(20)


def test_an_application_that_cannot_be_made_stops_the_server_and_is_told() -> None:
    def make():  # noqa: ANN202
        raise InputError("no atlas there")

    running = Running(make)
    running.thread.join(20)
    assert isinstance(running.failure, InputError)
    assert not running.thread.is_alive()


def test_it_ends_at_once_though_streams_are_open() -> None:
    running = Running(lambda: (stand_in([]), lambda: None))
    address = running.listener.getsockname()
    held = [socket.create_connection(address) for _ in range(5)]
    for sock in held:
        sock.sendall(f"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {LONG}\r\n\r\n".encode())
        assert b" 200 " in sock.recv(4096)
    begun = time.monotonic()
    running.server.stop()
    running.thread.join(20)
    assert time.monotonic() - begun < 3
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=2).recv(1)


def test_errors_go_into_a_log_and_no_token_does(tmp_path: Path) -> None:
    with logged(tmp_path / "state"):
        running = Running(lambda: (stand_in([]), lambda: None))
        for path in (f"/?token={LONG}", "/boom"):
            with socket.create_connection(running.listener.getsockname()) as sock:
                sock.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {LONG}\r\nConnection: close\r\n\r\n".encode()
                )
                while sock.recv(2**16):
                    pass
        running.server.stop()
        running.thread.join(20)
    text = (tmp_path / "state" / "viewer.log").read_text()
    assert "ZeroDivisionError: a secret of the trace" in text
    assert LONG not in text
    assert running.settings.session not in text
    assert logging.getLogger("conceptlab.web").propagate


def test_a_log_that_cannot_be_written_costs_the_log_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with logged(tmp_path / "file" / "state"):
        logging.getLogger("conceptlab.web").error("lost")


# the command


def say(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that is refused."""
    assert main(["view", "--no-browser", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def test_wrong_input_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text("{}")
    (here / "file.txt").write_text("")
    assert "there is no folder 'no/such/folder'" in say("no/such/folder", capsys=capsys)
    assert "there is no folder 'empty/atlas'" in say("empty/atlas", capsys=capsys)
    assert "there is no folder './x'" in say("./x", capsys=capsys)
    assert "there is no folder" in say("a\tb", capsys=capsys)
    assert "empty holds no atlas" in say("empty", capsys=capsys)
    assert "file.txt is a file" in say("file.txt", capsys=capsys)
    assert "one live model" in say("model", "org/model", capsys=capsys)
    assert "one live model" in say("model", "--model", "embedded", capsys=capsys)
    assert "without a config.json" in say("--model", "empty", capsys=capsys)
    assert "--no-model excludes" in say("model", "--no-model", capsys=capsys)
    assert "no atlas in ./conceptlab-atlas and no model is wanted" in say("--no-model", capsys=capsys)
    assert "out of range" in say("--port", "70000", capsys=capsys)
    assert "--allow-host" in say("--host", "0.0.0.0", capsys=capsys)
    assert "--allow-host" in say("--host", "0.0.0.0", "--token", LONG, capsys=capsys)
    assert "at least 16" in say("--token", "short", capsys=capsys)
    assert "none.csv" in say("--concepts", "none.csv", capsys=capsys)
    with listen("127.0.0.1", 0) as taken:
        assert "is taken" in say("--port", str(taken.getsockname()[1]), capsys=capsys)


def test_sources_are_told_apart(here: Path) -> None:
    for name in ("m", "conceptlab-atlas/a", "conceptlab-atlas/b"):
        (here / name).mkdir(parents=True)
    (here / "m" / "config.json").write_text("{}")
    for name in "ab":
        (here / "conceptlab-atlas" / name / "manifest.json").write_text("{}")
    a = Path("conceptlab-atlas/a")
    assert viewing.sorted_sources([], None, no_model=False) == ([Path("conceptlab-atlas")], None)
    assert viewing.sorted_sources([str(a), "m"], None, no_model=False) == ([a], "m")
    assert viewing.sorted_sources([str(a)], "org/model", no_model=False) == ([a], "org/model")
    assert viewing.sorted_sources(["gpt2"], None, no_model=False) == ([], "gpt2")
    assert viewing.sorted_sources(["embedded"], None, no_model=False) == ([], "embedded")
    assert viewing.sorted_sources([str(a)], None, no_model=True) == ([a], None)


@pytest.mark.parametrize(
    ("environment", "found"),
    [({"DISPLAY": ":0"}, True), ({"WAYLAND_DISPLAY": "w"}, True), ({}, False), ({"BROWSER": "x", "SSH_CONNECTION": "y"}, True),
     ({"DISPLAY": ":0", "SSH_CONNECTION": "y"}, False)],
)  # fmt: skip
def test_a_browser_is_opened_where_there_is_one(
    environment: dict[str, str], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewing.sys, "platform", "linux")
    assert viewing.has_browser(environment) == found


def test_the_browser_gets_a_ticket_and_not_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import webbrowser

    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("BROWSER", "x")
    settings = GuardSettings("the-token-of-this-run")
    with listen("127.0.0.1", 0) as listener:
        viewing.say_where(listener, settings, [], browser=True)
    assert soon(lambda: bool(opened))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "token=the-token-of-this-run" in out
    assert "the-token-of-this-run" not in opened[0]
    ticket = opened[0].rpartition("=")[2]
    assert settings.admits(ticket)
    assert not settings.admits(ticket)


class Command:
    """`conceptlab view` as a process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*CONCEPTLAB, "view", "--no-browser", "--port", "0", *arguments],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()

    def end(self, number: int) -> tuple[int, str, str, float]:
        begun = time.monotonic()
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err, time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_line_is_printed_and_ctrl_c_ends_it_with_0(tmp_path: Path, number: int) -> None:
    command = Command(tmp_path)
    assert LINE.fullmatch(command.line)
    code, out, err, seconds = command.end(number)
    assert (code, out, err) == (0, "", "")
    assert seconds < 20, "most of it the end of an interpreter that still imports"


def test_the_embedded_model_alone_is_served_to_who_has_the_address(tmp_path: Path) -> None:
    command = Command(tmp_path)
    found = LINE.fullmatch(command.line)
    assert found is not None
    try:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with opener.open(found[1], timeout=90) as reply:
            assert reply.status == 200
            assert "token" not in reply.url
            assert "<title>" in reply.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(found[1].partition("?")[0], timeout=20)
    finally:
        code, _, err, seconds = command.end(signal.SIGINT)
    assert (code, err) == (0, "")
    assert seconds < 20


def test_the_desk_holds_what_the_command_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.atlas.synthetic import atlas

    atlas_folder = here / "some-atlas"
    made = atlas()
    made.save(atlas_folder)
    asked: list[object] = []

    def open_model(source: str | None, options: object) -> object:
        asked.append(source)
        raise RunError("not now")

    monkeypatch.setattr(viewing, "open_model", open_model)
    opened = viewing.Opened([atlas_folder], None)
    desk = viewing.open_everything(opened, None, ModelOptions(), no_model=False)
    assert list(desk.atlases) == [atlas_folder.name]
    assert desk.notes.folder == atlas_folder / "notes"
    assert not desk.notes.folder.exists()
    assert soon(lambda: desk.live is not None and desk.live.state == "failed")
    assert desk.live is not None
    assert (asked, desk.live.name, desk.live.said) == ([made.model["name"]], made.model["name"], "not now")
    assert viewing.open_everything(opened, None, ModelOptions(), no_model=True).live is None
    named = viewing.open_everything(viewing.Opened([], "org/model"), None, ModelOptions(), no_model=False)
    assert named.live is not None
    assert named.live.name == "org/model"
    assert named.concept_set is not None, "a model alone is looked at with the embedded texts"
