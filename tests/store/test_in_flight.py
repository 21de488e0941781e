"""A shard is published while the next one is computed: at most one, in order, with the same errors; Ctrl-C leaves nothing half."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conceptlab.errors import RunError
from conceptlab.runs.job import work
from conceptlab.runs.place import LocalPlace
from conceptlab.store import Store, open_harvest, shard_files
from conceptlab.store.harvester import Harvester
from conceptlab.store.verifying import verify
from tests.reliability import small
from tests.store.launched import files

Publish = Callable[[LocalPlace, Path, str], None]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The store of a worker that waits for every shard."""
    folder = tmp_path_factory.mktemp("one-by-one")
    worker = worker_of(folder)
    with worker.ledger:
        for shard in range(small.N_SHARDS):
            assert worker.do(shard)["tokens"] > 0
            assert worker.writer is None and Store.open(folder).shards == tuple(range(shard + 1))
    return files(folder)


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Publish], None]]:
    """Do something else in the place of publishing a file of values."""
    plain = LocalPlace.publish

    def change(ours: Publish) -> None:
        def publish(place: LocalPlace, draft: Path, name: str) -> None:
            if name.startswith("acts/"):
                ours(place, draft, name)
            plain(place, draft, name)

        monkeypatch.setattr(LocalPlace, "publish", publish)

    yield change


def worker_of(folder: Path) -> Harvester:
    return open_harvest(small.model(), small.corpus(), folder, small.WISH).worker


def shard_of(name: str) -> int:
    return int(name.rpartition("/")[2][:6])


def test_the_next_shard_is_computed_while_one_is_published(
    tmp_path: Path, expected: dict[str, str], publishing: Callable[[Publish], None]
) -> None:
    ticked: list[int] = []
    met: list[
        tuple[int, int, int]
    ] = []  # the shard published, the last one whose batch was computed, drafts that are open

    def wait_for_the_next(place: LocalPlace, draft: Path, name: str) -> None:
        shard, end = shard_of(name), time.monotonic() + 30
        while shard + 1 < small.N_SHARDS and shard + 1 not in ticked and time.monotonic() < end:
            time.sleep(0.001)
        met.append((shard, max(ticked), len(list((tmp_path / ".drafts").glob("0*")))))

    publishing(wait_for_the_next)
    worker = worker_of(tmp_path)
    worker.tick = lambda said: ticked.append(said["shard"])
    reports = list(work(worker))
    assert [report["shard"] for report in reports] == list(range(small.N_SHARDS))
    assert all(0 <= report["waited"] <= report["seconds"] for report in reports)
    assert {(shard, last - shard) for shard, last, _ in met} == {
        (shard, int(shard + 1 < small.N_SHARDS)) for shard in range(small.N_SHARDS)
    }
    assert max(drafts for _, _, drafts in met) <= 2
    assert files(tmp_path) == expected and not list((tmp_path / ".drafts").iterdir())


def test_the_shard_in_flight_is_held_until_it_is_committed(
    tmp_path: Path, expected: dict[str, str], publishing: Callable[[Publish], None]
) -> None:
    go_on = threading.Event()
    publishing(lambda place, draft, name: go_on.wait(30))
    first, others = worker_of(tmp_path), worker_of(tmp_path).ledger
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.extend(int(report["shard"]) for report in work(first)))
    thread.start()
    end = time.monotonic() + 30
    while not (tmp_path / ".drafts/000001").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with others as other, other.claim(0) as zero, other.claim(1) as one, other.claim(3) as three:
        assert (zero, one, three) == (False, False, True)
    go_on.set()
    thread.join()
    assert done == list(range(small.N_SHARDS)) and files(tmp_path) == expected


@pytest.mark.parametrize("shard", [0, small.N_SHARDS - 1])
def test_an_error_of_the_publishing_is_the_harvests_error(
    tmp_path: Path, expected: dict[str, str], publishing: Callable[[Publish], None], shard: int
) -> None:
    def refuse(place: LocalPlace, draft: Path, name: str) -> None:
        if shard_of(name) == shard:
            raise RunError("the disk is full; free some space")

    publishing(refuse)
    worker = worker_of(tmp_path)
    with pytest.raises(RunError, match="^the disk is full; free some space$") as caught:
        list(work(worker))
    assert caught.value.exit_code == 1 and worker.writer is None and worker.flight is None
    assert Store.open(tmp_path).shards == tuple(range(shard)) and not list((tmp_path / ".drafts").iterdir())
    publishing(lambda place, draft, name: None)
    assert [report["shard"] for report in work(worker)] == list(range(shard, small.N_SHARDS))
    assert files(tmp_path) == expected


def test_an_error_of_the_next_shard_lets_the_one_in_flight_be_committed(
    tmp_path: Path, expected: dict[str, str], publishing: Callable[[Publish], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publishing(lambda place, draft, name: time.sleep(0.05))
    worker, plain = worker_of(tmp_path), Harvester.captured

    def fail(self: Harvester, batch, kept):  # noqa: ANN001, ANN202
        if self.flight is not None and self.flight.shard == 1:
            raise RunError("the device is out of memory")
        return plain(self, batch, kept)

    monkeypatch.setattr(Harvester, "captured", fail)
    with pytest.raises(RunError, match="the device is out of memory"):
        list(work(worker))
    assert Store.open(tmp_path).shards == (0, 1)
    monkeypatch.undo()
    list(work(worker))
    assert files(tmp_path) == expected


def test_who_stops_reading_the_reports_leaves_whole_shards(tmp_path: Path, expected: dict[str, str]) -> None:
    steps = work(worker_of(tmp_path))
    assert next(steps)["shard"] == 0
    steps.close()
    assert Store.open(tmp_path).shards == (0, 1) and verify(tmp_path).whole
    list(work(worker_of(tmp_path)))
    assert files(tmp_path) == expected


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_the_shard_in_flight_cleanly(
    tmp_path: Path,
    expected: dict[str, str],
    publishing: Callable[[Publish], None],
    monkeypatch: pytest.MonkeyPatch,
    presses: int,
) -> None:
    """Pressed once, what is computed is still committed; pressed twice, it is given up."""
    went: list[str] = []

    def press(place: LocalPlace, draft: Path, name: str) -> None:
        if shard_of(name) == 1 and not went:
            went.append(name)
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.5)

    publishing(press)
    worker = worker_of(tmp_path)
    monkeypatch.setattr(
        shard_files, "PUBLISHERS", 1
    )  # one file after the other, so that some are left when it is pressed
    with pytest.raises(KeyboardInterrupt):
        list(work(worker))
    assert went and worker.writer is None and worker.flight is None
    assert Store.open(tmp_path).shards == ((0, 1) if presses == 1 else (0,))
    assert not list((tmp_path / ".drafts").iterdir())
    list(work(worker_of(tmp_path)))
    assert files(tmp_path) == expected
