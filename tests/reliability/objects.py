"""What is asked of an object store, each in a child of the fork server (file systems of fsspec do not live through a fork)."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from conceptlab.errors import ConceptlabError, ResultError
from conceptlab.runs.place import place_of
from conceptlab.store import Store
from tests.reliability import kills, small
from tests.reliability.fork_server import ForkServer
from tests.reliability.object_server import ObjectServer


@contextmanager
def trials(server: ForkServer) -> Iterator[tuple[ObjectServer, kills.Trials]]:
    """An object store, and trials in buckets of it."""
    with ObjectServer() as store:
        yield store, kills.Trials(server.within(store.environment), store.bucket)


def use(url: str) -> None:
    """Every method of a place."""
    place, other = place_of(url), place_of(url + "2")
    assert place.names() == [] and place.names("commit") == [] and place.read("a") is None and place.size("a") is None
    assert other.create("commit/1", b"another store")
    assert place.create("commit/1", b"first")
    assert not place.create("commit/1", b"second")
    assert place.read("commit/1") == b"first" and place.size("commit/1") == 5
    assert (place.span("commit/1", 1, 3), place.span("commit/1", 3, 99), place.span("commit/1", 2, 2)) == (
        b"ir",
        b"st",
        b"",
    )
    content = bytes(range(256)) * (6 << 12)  # 6 MiB: an upload in parts
    with place.drafts("000001") as drafts:
        (drafts / "values").write_bytes(content)
        place.publish(drafts / "values", "acts/x/1-hash")
        place.publish(drafts / "values", "acts/x/1-hash")
    assert not drafts.exists()
    assert place.size("acts/x/1-hash") == len(content)
    assert place.span("acts/x/1-hash", 1_000_000, 2_000_000) == content[1_000_000:2_000_000]
    assert place.names() == ["acts/x/1-hash", "commit/1"] and place.names("commit") == ["commit/1"]
    place.delete("commit/1")
    place.delete("commit/1")
    assert place.read("commit/1") is None and place.create("commit/1", b"again")
    try:
        place.span("nothing", 0, 1)
    except FileNotFoundError:
        return
    raise AssertionError("a missing object was read")


def overwrite(url: str, name: str, n_bytes: int) -> None:
    """Put zeros in the place of an object."""
    import fsspec

    with fsspec.open(f"{url}/{name}", "wb") as file:
        file.write(bytes(n_bytes))


def create(url: str, name: str, content: str) -> bool:
    """Make a record unless it exists."""
    return place_of(url).create(name, content.encode())


def read(url: str) -> list[float]:
    """Some values of a store, each checked."""
    store = Store.open(url)
    return store.part("resid_post", 1)[::7].double().sum(1).tolist()


def refused(url: str) -> str:
    """How a damaged store is refused."""
    try:
        read(url)
    except ResultError as error:
        return str(error)
    raise AssertionError("nothing was noticed")


def fails(url: str) -> tuple[str, int, str, float]:
    """How a harvest fails: kind of error, exit code, message, seconds."""
    began = time.perf_counter()
    try:
        small.harvest(url)
    except ConceptlabError as error:
        return type(error).__name__, error.exit_code, str(error), time.perf_counter() - began
    raise AssertionError("nothing failed")


def drafts_left(url: str, kill: bool) -> list[str]:
    """The temporary folders of drafts that a harvest leaves; with `kill` it dies with a draft open."""
    with TemporaryDirectory() as folder:
        import tempfile

        tempfile.tempdir = folder
        if kill:
            from conceptlab.runs import object_place

            _, lock = object_place._own_folder("000001")
            import os

            os.close(lock)  # as the system does when a process dies
        assert len(list(Path(folder).iterdir())) == kill
        small.harvest(url)
        return [path.name for path in Path(folder).iterdir()]
