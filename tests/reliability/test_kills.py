"""Bars 1 and 4 in short: kills, failing disks and several writers; `make reliability` runs the long forms."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conceptlab.runs import moments
from conceptlab.runs.place import LocalPlace
from tests.reliability import commands, faults, kills, repairs, small, whole, writers
from tests.reliability.kills import Trials

Say = Callable[[object], None]


def test_a_harvest_killed_anywhere_loses_nothing(trials: Trials, say: Say) -> None:
    random = kills.at_random(trials, 6)
    named = kills.at_moments(trials, len(moments.MOMENTS))
    called = faults.killed_at_every_call(trials, 8)
    for tally in (random, named, called):
        say(tally)
    assert (random.kills, named.kills) == (6, len(moments.MOMENTS)) and called.kills >= 6
    assert random.met["harvesting"] + random.met["planning"] > 0


def test_a_disk_that_refuses_is_one_line_and_the_harvest_goes_on(trials: Trials, say: Say) -> None:
    tally = faults.at_every_call(trials, 16)
    say(tally)
    assert tally.failures >= 12 and tally.one_line > 8


def test_a_command_on_a_disk_that_refuses_is_one_line(trials: Trials, tmp_path: Path, say: Say) -> None:
    tally = commands.at_every_call(trials, tmp_path, 2, seed=1)
    say(f"conceptlab harvest: {tally}")
    assert tally.failures == 2


def test_a_harvest_or_a_repair_that_is_stopped_goes_on(trials: Trials, tmp_path: Path, say: Say) -> None:
    for tally in (repairs.interrupted(trials, 2), repairs.killed_repairs(trials, 2, tmp_path)):
        say(tally)
        assert tally.stopped == 2


def test_writers_on_one_store_share_the_work(trials: Trials, say: Say) -> None:
    for tally in (writers.threads(trials, 4), writers.pairs(trials, 4), writers.starts(trials, 16)):
        say(tally)
        assert tally.twice == 0


def test_the_checks_notice_what_they_are_for(trials: Trials, tmp_path: Path) -> None:
    url = str(tmp_path)
    small.harvest(url)
    assert small.hashes(LocalPlace(tmp_path)) == trials.expected
    (tmp_path / "acts/extra").write_bytes(b"half")
    with pytest.raises(AssertionError, match="acts/extra is visible"):
        whole.check(url, trials.expected)
    (tmp_path / "acts/extra").unlink()
    (tmp_path / "commit/000002.json").unlink()
    assert whole.check(url, trials.expected).finished == small.N_SHARDS - 1
    with pytest.raises(AssertionError, match="commit/000002"):
        whole.same(url, trials.expected)
    path = next((tmp_path / "acts/embed").iterdir())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="is visible"):
        whole.check(url, trials.expected)
    outcome = trials.server.run("tests.reliability.whole:check_and_resume", url, trials.expected)
    assert outcome.code == 99 and "is visible" in outcome.message
