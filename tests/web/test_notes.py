"""Notes: what was saved is read back, what is no note is refused, and a killed process leaves the old one or the new one."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from conceptlab.errors import InputError, ResultError, RunError
from conceptlab.web.notes import DOCUMENT, Notes, notes_beside
from tests.web.hostile_strings import hostile_strings
from tests.web.wire import Wire, soon


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


def test_a_document_comes_back_as_it_was(notes: Notes) -> None:
    document = {"pinned": ["L2.H1", "L0.N7"], "groups": {"a": [1, 2.5, None, True]}, "said": "ünï\ud800\u202e</script>"}
    notes.put("circuit", "default", document)
    notes.put("circuit", "other", [1])
    notes.put("remark", "default", "text")
    assert notes.get("circuit", "default") == document
    assert Notes(notes.folder).get("circuit", "default") == document
    assert notes.get("remark", "default") == "text"
    assert notes.get("circuit", "none") is None
    assert notes.listed("circuit") == ["default", "other"]
    notes.put("circuit", "default", {})
    assert notes.get("circuit", "default") == {}


def test_nothing_is_made_before_something_is_saved(notes: Notes) -> None:
    assert notes.get("circuit", "x") is None
    assert notes.listed("circuit") == []
    assert not notes.folder.exists()


def test_no_id_leads_out_of_the_folder(notes: Notes, tmp_path: Path) -> None:
    ids = ["../../etc/passwd", "/etc/passwd", "..\\x", "a\0b", "CON", ".", "..", "x" * 1000, "a/../../b"]
    ids += [text for text in hostile_strings(200) if 0 < len(text) <= 1000]
    for id in ids:
        notes.put("circuit", id, id)
    assert [notes.get("circuit", id) for id in ids] == ids
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {notes.folder}
    assert all(len(path.name) == 45 for path in notes.folder.iterdir())


@pytest.mark.parametrize("kind", ["", "../x", "A", "a b", "x" * 40, "circuit/x", "circuit\n", "é"])
def test_a_kind_is_a_small_word(notes: Notes, kind: str) -> None:
    with pytest.raises(InputError, match="kind of small letters"):
        notes.put(kind, "id", 1)
    with pytest.raises(InputError):
        notes.get(kind, "id")


@pytest.mark.parametrize("id", ["", "x" * 1001])
def test_an_id_has_a_length(notes: Notes, id: str) -> None:
    with pytest.raises(InputError, match="1 to 1000 characters"):
        notes.put("circuit", id, 1)


def deep() -> list:
    found: list = []
    for _ in range(100_000):
        found = [found]
    return found


@pytest.mark.parametrize("document", [float("nan"), {"a": float("inf")}, {1, 2}, object(), b"bytes"])
def test_what_is_no_json_is_refused(notes: Notes, document: object) -> None:
    with pytest.raises(InputError, match="plain JSON values only"):
        notes.put("circuit", "x", document)
    assert notes.get("circuit", "x") is None


def test_endless_depth_is_refused(notes: Notes) -> None:
    with pytest.raises(InputError, match="plain JSON values only"):
        notes.put("circuit", "x", deep())


def test_size_and_number_are_limited(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    notes.put("circuit", "x", "y" * (DOCUMENT - 200))
    with pytest.raises(InputError, match=f"at most {DOCUMENT} are kept"):
        notes.put("circuit", "x", "y" * DOCUMENT)
    assert notes.get("circuit", "x") == "y" * (DOCUMENT - 200)
    monkeypatch.setattr("conceptlab.web.notes.MOST", 2)
    notes.put("circuit", "second", 1)
    with pytest.raises(InputError, match="2 notes already"):
        notes.put("circuit", "third", 1)
    notes.put("circuit", "second", 2)


@pytest.mark.parametrize(
    "bytes_",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema": 1, "kind": "other", "id": "x"}', b"[" * 100_000],
)
def test_a_damaged_file_is_named_and_can_be_replaced(notes: Notes, bytes_: bytes) -> None:
    notes.put("circuit", "x", 1)
    (path,) = notes.folder.iterdir()
    path.write_bytes(bytes_)
    with pytest.raises(ResultError, match=path.name):
        notes.get("circuit", "x")
    assert notes.listed("circuit") == []
    notes.put("circuit", "x", 2)
    assert notes.get("circuit", "x") == 2


def test_a_newer_file_is_refused(notes: Notes) -> None:
    notes.put("circuit", "x", 1)
    (path,) = notes.folder.iterdir()
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(ResultError, match="newer"):
        notes.get("circuit", "x")


def test_a_disk_that_refuses_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        Notes(tmp_path / "file").put("circuit", "x", 1)


def test_many_threads_saving_at_once_leave_whole_documents(notes: Notes) -> None:
    def save(i: int) -> None:
        for n in range(20):
            notes.put("circuit", f"{(i + n) % 3}", [i] * 5000)

    threads = [threading.Thread(target=save, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id in ("0", "1", "2"):
        found = notes.get("circuit", id)
        assert len(found) == 5000
        assert len(set(found)) == 1
    assert len(list(notes.folder.iterdir())) == 3


def test_notes_lie_in_the_first_atlas_or_where_that_cannot_be_written_in_the_state_folder(tmp_path: Path) -> None:
    atlases, state = [tmp_path / "a", tmp_path / "b"], tmp_path / "state"
    for folder in atlases:
        folder.mkdir()
    assert notes_beside(atlases, state).folder == tmp_path / "a" / "notes"
    assert notes_beside([], state).folder == state / "notes" / "viewer"
    elsewhere = notes_beside([tmp_path / "gone" / "a"], state).folder
    assert elsewhere.parent == state / "notes"
    assert not state.exists()


@pytest.fixture
def wire(tmp_path: Path):
    """The viewer with notes and nothing else."""
    from conceptlab.web.app import create_app
    from conceptlab.web.desk import Desk
    from conceptlab.web.jobs import Jobs

    desk = Desk(jobs=Jobs(), notes=Notes(tmp_path / "notes"))
    made = Wire(create_app(desk))
    made.desk = desk
    yield made
    made.close()
    desk.jobs.close()


def test_a_page_saves_and_reads_a_note(wire: Wire) -> None:
    path = "/notes/circuit/" + quote("a/../b \u00fc", safe="")
    assert wire.ask("GET", path).line == "null"
    document = {"pinned": ["L2.H1"], "half": "\ud800</script>"}
    reply = wire.ask("PUT", path, {"Origin": f"http://{wire.host}"}, json.dumps(document).encode())
    assert (reply.status, json.loads(reply.line)) == (200, {"saved": True})
    assert json.loads(wire.ask("GET", path).line) == document
    assert wire.desk.notes.get("circuit", "a/../b \u00fc") == document


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b'"' + b"x" * 300_000 + b'"'])
def test_a_page_cannot_save_what_is_no_note(wire: Wire, body: bytes) -> None:
    reply = wire.ask("PUT", "/notes/circuit/x", {"Accept": "application/json", "Content-Length": str(len(body))}, body)
    assert reply.status == 400
    assert reply.line.count("\n") == 1
    assert wire.ask("GET", "/notes/circuit/x").line == "null"


def test_another_site_cannot_save_a_note(wire: Wire) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Cookie": ""}):
        assert wire.ask("PUT", "/notes/circuit/x", headers, b"1").status == 403
    assert wire.ask("GET", "/notes/circuit/x").line == "null"


def test_a_page_stops_a_job(wire: Wire) -> None:
    def work():  # noqa: ANN202
        while True:
            time.sleep(0.001)
            yield

    job = wire.desk.jobs.submit("endless", work, key=1, keep=True)
    assert wire.ask("POST", f"/jobs/{job.id}/cancel").status == 204
    assert soon(lambda: job.state == "cancelled")
    assert wire.ask("POST", "/jobs/none/cancel").status == 404
    assert wire.ask("GET", f"/jobs/{job.id}/cancel").status == 405


KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path

from conceptlab.web.notes import Notes

folder = Path(sys.argv[1])
old, new = {"said": "old", "fill": "o" * 200_000}, {"said": "new", "fill": "n" * 230_000}
real = {"open": Path.open, "replace": Path.replace, "mkdir": Path.mkdir, "fsync": os.fsync}


class Half:
    # a file that may be killed before, in the middle of and after a write
    def __init__(self, file): self.file = file
    def __enter__(self): return self
    def __exit__(self, *error): step(); self.file.close(); step()
    def write(self, data):
        step(); self.file.write(data[: len(data) // 2]); self.file.flush()
        step(); self.file.write(data[len(data) // 2 :]); step()
    def flush(self): step(); self.file.flush(); step()
    def fileno(self): return self.file.fileno()


def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)


def around(name, wrap=lambda found: found):
    def call(*args, **named):
        step(); found = wrap(real[name](*args, **named)); step()
        return found
    return call


def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def at_call(n):
    def work():
        global left
        left = n
        Path.open, Path.replace, Path.mkdir, os.fsync = around("open", Half), around("replace"), around("mkdir"), around("fsync")
        Notes(folder).put("circuit", "x", new)
    return os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1])


def endlessly():
    notes = Notes(folder)
    while True:
        notes.put("circuit", "x", new)
        notes.put("circuit", "x", old)


found, n = [], 0
while True:
    Notes(folder).put("circuit", "x", old)
    code = at_call(n)
    found.append(Notes(folder).get("circuit", "x"))
    n += 1
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
draw, timed = random.Random(0), []
for _ in range(int(sys.argv[2])):
    pid = child(endlessly)
    time.sleep(draw.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    timed.append(Notes(folder).get("circuit", "x"))
whole = all(each in (old, new) for each in found + timed)
print(json.dumps({"whole": whole, "calls": [each["said"] for each in found], "timed": [each["said"] for each in timed]}))
"""


def test_a_kill_at_every_call_and_at_many_moments_leaves_the_old_document_or_the_new_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path / "notes"), "150"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["whole"]
    calls = said["calls"]
    assert len(calls) >= 12, "before and after each of mkdir, open, two writes, flush, fsync, close, rename"
    switch = calls.index("new")
    assert calls == ["old"] * switch + ["new"] * (len(calls) - switch)
    assert switch >= 10
    assert len(said["timed"]) == 150
    assert set(said["timed"]) == {"old", "new"}
    Notes(tmp_path / "notes").put("circuit", "x", "after")
