"""Launchers: whoever computes the shards, however often they are killed, the same files lie there at the end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from conceptlab.errors import InputError, RunError
from conceptlab.runs.job import Job, order
from conceptlab.runs.launch import in_process, processes
from tests.runs.toy_job import MAKE, bytes_of, deaths, make, toy

ALL = set(range(8))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of one undisturbed run."""
    folder = tmp_path_factory.mktemp("plain")
    assert [report["shard"] for report in in_process(toy(folder))] == [0, 1, 2, 3, 4, 5, 6, 7]
    files = bytes_of(folder)
    assert len(files) == 16
    return files


def test_processes_give_the_same_files(
    tmp_path: Path, plain: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    reports = list(processes(toy(tmp_path, noise="what a library prints"), 2))
    assert sorted(report["shard"] for report in reports) == sorted(ALL)
    assert {report["tokens"] for report in reports} == {1000}
    assert bytes_of(tmp_path) == plain
    assert "what a library prints" in capfd.readouterr().err
    assert list(in_process(toy(tmp_path))) == []


def test_one_count_of_workers_goes_on_where_another_stopped(tmp_path: Path, plain: dict[str, str]) -> None:
    first = in_process(toy(tmp_path), 1, 3)
    begun = [next(first)["shard"], next(first)["shard"]]
    first.close()
    assert begun == [1, 4]
    others = processes(toy(tmp_path, seconds=0.05), 2)
    begun.append(next(others)["shard"])
    others.close()
    rest = [report["shard"] for report in in_process(make(str(tmp_path)), 0, 2)]
    assert set(begun) | set(rest) <= ALL
    assert not set(begun) & set(rest)
    assert bytes_of(tmp_path) == plain


def test_ranks_that_start_together_share_the_work(tmp_path: Path, plain: dict[str, str]) -> None:
    code = (
        "from pathlib import Path; from conceptlab.runs.launch import in_process; from tests.runs.toy_job import toy; "
        f"print(*[r['shard'] for r in in_process(toy(Path({str(tmp_path)!r}), seconds=0.3), RANK, 2)])"
    )
    ranks = [
        subprocess.Popen([sys.executable, "-c", code.replace("RANK", str(rank))], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    done = [set(map(int, process.communicate(timeout=60)[0].split())) for process in ranks]
    assert done[0] | done[1] == ALL
    assert not done[0] & done[1]
    assert bytes_of(tmp_path) == plain


def test_a_killed_worker_is_started_again(tmp_path: Path, plain: dict[str, str]) -> None:
    job = toy(tmp_path / "store", die_at=3, deaths=deaths(tmp_path / "deaths", 2))
    reports = list(processes(job, 1, retries=2))
    assert [report["shard"] for report in reports] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert len({report["pid"] for report in reports}) == 2  # the second died before it finished one
    assert bytes_of(tmp_path / "store") == plain


def test_a_worker_killed_from_outside_is_started_again(tmp_path: Path, plain: dict[str, str]) -> None:
    reports = processes(toy(tmp_path, seconds=0.2), 2)
    first = next(reports)
    os.kill(first["pid"], signal.SIGKILL)
    rest = [report["shard"] for report in reports]
    assert {first["shard"], *rest} == ALL
    assert bytes_of(tmp_path) == plain


def test_workers_that_keep_dying_end_the_launch_and_keep_what_is_finished(
    tmp_path: Path, plain: dict[str, str]
) -> None:
    job = toy(tmp_path / "store", die_at=3, deaths=deaths(tmp_path / "deaths", 9))
    with pytest.raises(
        RunError, match=r"workers keep dying \(the last one killed by SIGKILL; is there enough memory\?\)"
    ):
        list(processes(job, 1, retries=1))
    assert len([name for name in bytes_of(tmp_path / "store") if name.startswith("commit/")]) == 3
    list(in_process(toy(tmp_path / "store")))
    assert bytes_of(tmp_path / "store") == plain


def test_wrong_input_of_a_worker_ends_the_launch_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^the model is of another revision$"):
        list(processes(toy(tmp_path, wrong="the model is of another revision"), 1))
    with pytest.raises(RunError, match="^TypeError: .*unexpected keyword argument 'such'"):
        list(processes(toy(tmp_path, such=1), 1))


def test_bad_launches_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rank 2 of 2 does not exist; ranks count from 0 to 1"):
        next(in_process(toy(tmp_path), 2, 2))
    with pytest.raises(InputError, match="0 workers were asked for; use at least 1"):
        next(processes(toy(tmp_path), 0))
    with pytest.raises(InputError, match="'nowhere.at:all' names no function; write package.module:function"):
        next(in_process(type(toy(tmp_path))("nowhere.at:all")))


@contextmanager
def launching(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", set[int]]]:
    """A process that launches two workers, and the workers' process ids once both have reported."""
    line = [sys.executable, "-m", "tests.runs.launching", str(folder)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        pids: set[int] = set()
        assert process.stdout is not None
        while len(pids) < 2:
            pids.add(json.loads(process.stdout.readline())["pid"])
        try:
            yield process, pids
        finally:
            process.kill()
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def alive(pids: set[int], seconds: float) -> set[int]:
    """Which of the processes are still there after at most `seconds`."""
    end = time.monotonic() + seconds
    while (left := {pid for pid in pids if Path(f"/proc/{pid}/cmdline").exists()}) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def test_ctrl_c_ends_the_workers_and_says_one_line(tmp_path: Path) -> None:
    with launching(tmp_path) as (process, pids):
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert json.loads(out.splitlines()[-1]) == {"interrupted": "interrupted; finished shards are kept"}
        assert err == ""
        assert not alive(pids, 0)
    n_kept = sum(name.startswith("commit/") for name in bytes_of(tmp_path))
    assert 2 <= n_kept < 400


def test_workers_do_not_see_the_ctrl_c_of_a_terminal(tmp_path: Path) -> None:
    with launching(tmp_path) as (process, pids):
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        time.sleep(0.3)
        assert alive(pids, 0) == pids
        assert process.poll() is None


def test_workers_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    with launching(tmp_path) as (process, pids):
        process.kill()
        assert not alive(pids, 10)


def test_writers_without_locks_and_ranks_begin_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conceptlab.runs.job.secrets.randbelow", lambda count: count - 3)
    anywhere = Job(MAKE, {"folder": "memory://begin-anywhere", "n_shards": 8}, threads=None)
    assert [report["shard"] for report in in_process(anywhere)] == [5, 6, 7, 0, 1, 2, 3, 4]
    assert [report["shard"] for report in in_process(toy(tmp_path))] == list(range(8))


def test_ranks_help_their_neighbours_from_the_end() -> None:
    assert order(10, 1, 3) == [1, 4, 7, 8, 5, 2, 9, 6, 3, 0]
    assert all(sorted(order(10, rank, 4)) == list(range(10)) for rank in range(4))
