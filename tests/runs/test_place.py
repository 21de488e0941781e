"""Where files lie: nothing leaves the folder, a file is whole or absent, and a record is made once."""

import os
import threading
from pathlib import Path

import pytest

from conceptlab.errors import InputError, RunError
from conceptlab.runs.claims import Claims
from conceptlab.runs.place import LocalPlace, put

LEAVING = ("../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a/.", "", "a\0b", "a\nb", "a\\b", 7, None)


@pytest.mark.parametrize("name", LEAVING)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: object) -> None:
    place = LocalPlace(tmp_path / "store")
    for use in (place.read, place.size, place.delete, place.local, lambda n: place.span(n, 0, 1)):
        with pytest.raises(InputError, match="would leave the store"):
            use(name)  # type: ignore[operator]
    with pytest.raises(InputError, match="would leave the store"):
        place.create(name, b"x")  # type: ignore[arg-type]


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    store = tmp_path / "store"
    store.mkdir()
    (store / "file").symlink_to(outside / "secret")
    (store / "acts").symlink_to(outside)
    (store / ".drafts").symlink_to(outside)
    place = LocalPlace(store)
    for name in ("file", "acts/secret", "acts/new"):
        with pytest.raises(InputError, match="leads out of the store"):
            place.read(name)
    with pytest.raises(InputError, match="leads out of the store"), place.drafts("secret"):
        pass
    with pytest.raises(InputError, match="leads out of the store"):
        place.create("commit/1", b"x")
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_store_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    place = LocalPlace(tmp_path / "link")
    assert place.create("a/b", b"x")
    assert place.read("a/b") == b"x" and place.names() == ["a/b"]


def test_a_record_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    won: list[int] = []

    def make(number: int) -> None:
        if LocalPlace(tmp_path).create("commit/1", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert LocalPlace(tmp_path).read("commit/1") == str(won[0]).encode()
    assert not list((tmp_path / ".drafts").iterdir())


def test_names_are_listed_while_drafts_come_and_go(tmp_path: Path) -> None:
    place, stop = LocalPlace(tmp_path), threading.Event()
    put(place, "acts/a", b"x")

    def work() -> None:
        while not stop.is_set():
            with place.drafts("000001/inner"):
                pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(300):
            assert place.names() == ["acts/a"]
    finally:
        stop.set()
        thread.join()


def test_a_folder_that_vanished_is_one_line(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "store")
    with place.drafts("1") as drafts:
        (drafts / "file").write_bytes(b"x")
        (drafts / "file").unlink()
        with pytest.raises(RunError, match="vanished"):
            place.publish(drafts / "file", "acts/a")
    with pytest.raises(FileNotFoundError):
        place.span("acts/a", 0, 1)
    with pytest.raises(RunError, match="vanished"):
        Claims(tmp_path / "none" / ".lock")


def test_old_drafts_of_records_are_removed(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.create("commit/1", b"x")
    for name in ("record-old", "record-new"):
        (tmp_path / ".drafts" / name).write_bytes(b"half")
    os.utime(tmp_path / ".drafts/record-old", (1e9, 1e9))
    place.lock_file()
    assert [path.name for path in (tmp_path / ".drafts").iterdir()] == ["record-new"]


def test_two_claims_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    first, second = Claims(tmp_path / ".lock"), Claims(tmp_path / ".lock")
    with first.claim(3) as mine, second.claim(3) as theirs, second.claim(4) as other:
        assert (mine, theirs, other) == (True, False, True)
    with second.claim(3) as now:
        assert now
    first.close()
    second.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path)
    place.create("commit/1", b"x")
    (tmp_path / "commit").chmod(0)
    try:
        with pytest.raises(RunError, match="no permission"):
            place.names("commit")
    finally:
        (tmp_path / "commit").chmod(0o755)
