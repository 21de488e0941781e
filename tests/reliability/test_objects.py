"""A store in an object store: a real server in another process, kills, two writers, damage, and a server that dies."""

from collections.abc import Callable, Iterator

import pytest

from conceptlab.errors import InputError
from conceptlab.runs.place import place_of
from conceptlab.store import Store
from tests.reliability import kills, small, whole, writers
from tests.reliability.fork_server import ForkServer
from tests.reliability.kills import Trials
from tests.reliability.object_server import ObjectServer

pytest.importorskip("moto", reason="moto is not installed (pip install -e .[dev])")
pytest.importorskip("s3fs", reason="s3fs is not installed (pip install conceptlab[s3])")
from tests.reliability import objects  # noqa: E402 - where its packages are there

Pair = tuple[ObjectServer, Trials]


@pytest.fixture(scope="module")
def both(server: ForkServer) -> Iterator[Pair]:
    with objects.trials(server) as found:
        yield found


def test_a_place_in_an_object_store(both: Pair) -> None:
    store, trials = both
    trials.server.run("tests.reliability.objects:use", store.bucket("use")).checked()
    url = store.bucket("race")
    children = [trials.server.start("tests.reliability.objects:create", url, "commit/1", str(n)) for n in range(8)]
    assert sum(child.wait().checked() for child in children) == 1


def test_a_harvest_into_an_object_store_killed_anywhere(both: Pair, say: Callable[[object], None]) -> None:
    store, trials = both
    tally = kills.at_random(trials, 2)
    say(f"object store: {tally}")
    assert tally.kills == 2
    say(f"object store: {writers.pairs(trials, 1, once=False)}")
    assert trials.server.run("tests.reliability.objects:drafts_left", store.bucket("drafts"), True).checked() == []


def test_damage_in_an_object_store_is_noticed(both: Pair) -> None:
    trials, url = both[1], "s3://trial-undisturbed/store"
    name = next(name for name in trials.expected if name.startswith("acts/resid_post/1/000001"))
    for n_bytes, told in ((3200, "is damaged between bytes 0 and 3,200"), (99, "has 99 bytes")):
        trials.server.run("tests.reliability.objects:overwrite", url, name, n_bytes).checked()
        said = trials.server.run("tests.reliability.objects:refused", url).checked()
        assert told in said and "\n" not in said


def test_a_bucket_that_is_not_there_is_one_line(both: Pair) -> None:
    kind, code, message, _ = (
        both[1].server.run("tests.reliability.objects:fails", "s3://no-such-bucket/store").checked()
    )
    assert (kind, code) == ("InputError", 2) and "make the bucket" in message and "\n" not in message


def test_a_server_that_dies_is_one_line(server: ForkServer) -> None:
    with ObjectServer() as store:
        url = store.bucket("dies")
        child = server.within(store.environment).start("tests.reliability.objects:fails", url)
        store.kill()
        kind, code, message, seconds = child.wait().checked()
    assert (kind, code) == ("RunError", 1) and "the same command goes on" in message and "\n" not in message
    assert seconds < 60


def test_a_store_in_memory() -> None:
    url = "memory://reliability/store"
    assert small.harvest(url) == list(range(small.N_SHARDS))
    expected = small.hashes(place_of(url))
    assert whole.check(url, expected).phase == "finished"
    assert small.harvest(url) == [] and len(Store.open(url).part("embed")[:]) == len(Store.open(url))
    place_of(url).delete("commit/000002.json")
    assert small.harvest(url) == [2]
    assert small.hashes(place_of(url)) == expected


def test_an_unknown_kind_of_url_is_one_line() -> None:
    with pytest.raises(InputError, match="cannot be opened") as caught:
        place_of("nothing://bucket/store")
    assert "\n" not in str(caught.value)
