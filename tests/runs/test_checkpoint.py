"""Finished parts of a run: whole or absent, bound to their key, never lost by a kill."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from conceptlab.errors import InputError, RunError
from conceptlab.runs import Checkpoint, durable

KEY = {"model": "abc", "data": "def", "seed": 0}


def commit(checkpoint: Checkpoint, name: str, content: bytes = b"hello") -> None:
    with checkpoint.part(name) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "data.bin").write_bytes(content)
        (folder / "empty").write_bytes(b"")


def test_a_committed_part_is_found_by_the_same_key(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, KEY) as checkpoint:
        assert checkpoint.finished("depth") is None
        commit(checkpoint, "depth")
    with Checkpoint(tmp_path, dict(reversed(KEY.items()))) as checkpoint:
        folder = checkpoint.finished("depth")
        assert folder is not None
        assert (folder / "deep" / "data.bin").read_bytes() == b"hello"
        assert checkpoint.finished("heads") is None


def test_another_key_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, KEY) as checkpoint:
        commit(checkpoint, "depth")
    with pytest.raises(InputError, match=r"another run \(seed was 0, now 1\); choose another --out"):
        Checkpoint(tmp_path, {**KEY, "seed": 1}).__enter__()
    with Checkpoint(tmp_path, KEY) as checkpoint:
        assert checkpoint.finished("depth") is not None


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, KEY), pytest.raises(InputError, match="in use by another run"):
        Checkpoint(tmp_path, KEY).__enter__()
    with Checkpoint(tmp_path, KEY):
        pass


def test_every_changed_byte_file_and_record_means_not_done(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, KEY) as checkpoint:
        commit(checkpoint, "depth")
        data = tmp_path / "parts" / "depth" / "deep" / "data.bin"
        record = tmp_path / "parts" / "depth.json"
        for path in (data, record):
            good = path.read_bytes()
            for place in range(len(good)):
                path.write_bytes(good[:place] + bytes([good[place] ^ 0x20]) + good[place + 1 :])
                same = json_or_none(path) == json.loads(good) if path == record else False
                assert (checkpoint.finished("depth") is None) or same
            for cut in range(len(good)):
                path.write_bytes(good[:cut])
                assert checkpoint.finished("depth") is None
            path.write_bytes(good)
        assert checkpoint.finished("depth") is not None
        (data.parent / "extra").write_bytes(b"x")
        assert checkpoint.finished("depth") is None


def json_or_none(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_a_part_whose_body_raises_leaves_nothing(tmp_path: Path) -> None:
    def fail(checkpoint: Checkpoint) -> None:
        with checkpoint.part("depth") as folder:
            (folder / "half").write_bytes(b"x")
            raise KeyboardInterrupt

    with Checkpoint(tmp_path, KEY) as checkpoint:
        with pytest.raises(KeyboardInterrupt):
            fail(checkpoint)
        assert checkpoint.finished("depth") is None
        assert list((tmp_path / "parts").iterdir()) == []


def test_clear_forgets_the_parts_and_keeps_the_key(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, KEY) as checkpoint:
        commit(checkpoint, "depth")
        checkpoint.clear()
        assert checkpoint.finished("depth") is None
    with pytest.raises(InputError):
        Checkpoint(tmp_path, {**KEY, "seed": 2}).__enter__()


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 200])
def test_a_part_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with Checkpoint(tmp_path, KEY) as checkpoint, pytest.raises(InputError, match="no name for a part"):
        checkpoint.finished(name)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace", "rename"])
def test_a_disk_that_refuses_is_a_run_error_and_the_part_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "x"))

    with Checkpoint(tmp_path, KEY) as checkpoint:
        with monkeypatch.context() as patch:
            patch.setattr(os if call == "fsync" else Path, call, refuse)
            with pytest.raises(RunError) as caught:
                commit(checkpoint, "depth")
        assert caught.value.exit_code == 1
        assert "\n" not in str(caught.value)
        assert checkpoint.finished("depth") is None
        commit(checkpoint, "depth")
        assert checkpoint.finished("depth") is not None


def test_the_record_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = durable.os.fsync

    def watched(handle: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see what is synced")
    with Checkpoint(tmp_path, KEY) as checkpoint:
        monkeypatch.setattr(durable.os, "fsync", watched)
        commit(checkpoint, "depth")
    record = seen.index(".depth.json.partial")
    assert seen.index("data.bin") < seen.index("parts") < record
    assert seen[record + 1 :] == ["parts"]


KILLED = """
    import sys
    from conceptlab.runs import Checkpoint
    with Checkpoint(sys.argv[1], {"seed": 0}) as checkpoint:
        for i in range(5000):
            if checkpoint.finished(f"p{i}") is None:
                with checkpoint.part(f"p{i}") as folder:
                    for j in range(3):
                        (folder / str(j)).write_bytes(bytes([i % 256]) * 5000)
            print(i, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_at_any_moment_loses_nothing_that_was_finished(tmp_path: Path, how: signal.Signals) -> None:
    finished = -1
    for attempt in range(6):
        command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            last = [int(process.stdout.readline()) for _ in range(finished + 2 + 5 * attempt)][-1]
            time.sleep(0.0007 * attempt)
            process.send_signal(how)
            last = max([last, *(int(line) for line in process.stdout.read().split())])
        finished = max(finished, last)
        with Checkpoint(tmp_path, {"seed": 0}) as checkpoint:
            assert all(checkpoint.finished(f"p{i}") is not None for i in range(finished + 1))
            for folder in (tmp_path / "parts").glob("p*[0-9]"):
                whole = checkpoint.finished(folder.name)
                assert whole is None or {p.read_bytes() for p in whole.iterdir()} == {
                    bytes([int(folder.name[1:]) % 256]) * 5000
                }
    assert finished > 20
