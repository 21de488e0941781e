"""Bar 2 in short: flipped bytes, cut files and repair; `make reliability` runs every byte."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from conceptlab.errors import RunError
from conceptlab.store import Store
from tests.reliability import flips

Say = Callable[[object], None]


def test_a_flipped_byte_is_noticed(tmp_path: Path, say: Say) -> None:
    tally = flips.flip(flips.make(tmp_path), every=151, seed=3)
    say(tally)
    assert len(tally.done) == 8 and min(tally.done.values()) >= 2


def test_a_cut_file_is_noticed(tmp_path: Path, say: Say) -> None:
    tally = flips.cut(flips.make(tmp_path), every=151, seed=3)
    say(tally)
    assert len(tally.done) == 8
    say(flips.long_file(tmp_path / "long", 12))


@pytest.mark.parametrize(
    ("number", "told"), [("EMFILE", "too many open files"), ("EACCES", "no permission"), ("EIO", "input/output error")]
)
def test_a_disk_that_refuses_to_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, told: str
) -> None:
    store = Store.open(flips.make(tmp_path))

    plain = Path.open

    def refuse(path: Path, *arguments, **keywords):
        if "acts" in path.parts:
            raise OSError(getattr(errno, number), number, str(path))
        return plain(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match=told):
        store.part("embed")[:]


def test_repair_computes_again_only_what_is_broken(tmp_path: Path, say: Say) -> None:
    tally = flips.repaired(flips.make(tmp_path), 16)
    say(tally)
    assert tally.repaired == 16 and len(tally.done) == 8
