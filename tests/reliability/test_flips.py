"""Bar 2 in short: flipped bytes, cut files and repair; `make reliability` runs every byte."""

from collections.abc import Callable
from pathlib import Path

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


def test_repair_computes_again_only_what_is_broken(tmp_path: Path, say: Say) -> None:
    tally = flips.repaired(flips.make(tmp_path), 16)
    say(tally)
    assert tally.repaired == 16 and len(tally.done) == 8
