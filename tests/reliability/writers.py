"""Bar 4, second half: many writers on one store, processes and threads. Each shard is computed once and nothing is corrupt."""

import copy
import random
import threading
from collections import Counter
from dataclasses import dataclass

from conceptlab.model import load_model
from conceptlab.runs.job import work
from conceptlab.runs.place import place_of
from conceptlab.store import open_harvest
from conceptlab.store.verifying import verify
from tests.model.tiny import tokenizer
from tests.reliability import small, whole
from tests.reliability.kills import Trials


@dataclass
class Writers:
    """Writers started, some of them killed, and how many shards were computed twice."""

    starts: int = 0
    killed: int = 0
    stores: int = 0
    twice: int = 0

    def __str__(self) -> str:
        return (
            f"{self.starts:,} writers on {self.stores:,} stores ({self.killed:,} of them killed): "
            f"{self.twice:,} shards computed twice; every store has the same bytes"
        )


def starts(trials: Trials, count: int, *, once: bool = True) -> Writers:
    """Start `count` writers on one new store at the same time. `once`: where there are locks no shard is computed twice."""
    url, tally = trials.place(f"starts-{count}"), Writers(starts=count, stores=1)
    children = [trials.server.start("tests.reliability.small:harvest", url) for _ in range(count)]
    done = Counter(shard for child in children for shard in child.wait().checked())
    tally.twice = done.total() - small.N_SHARDS
    assert set(done) == set(range(small.N_SHARDS))
    assert not once or not tally.twice, done
    trials.server.run("tests.reliability.writers:whole_and_same", url, trials.expected).checked()
    return tally


def pairs(trials: Trials, count: int, *, once: bool = True, seed: int = 0) -> Writers:
    """Two writers on each of `count` stores, every other time one of them killed at random: the other does the rest."""
    rng, tally = random.Random(seed), Writers()
    whole_time = trials.server.run("tests.reliability.small:harvest", trials.place("pairs-timed")).seconds
    for number in range(count):
        url = trials.place(f"pair-{number}")
        first, second = (trials.server.start("tests.reliability.small:harvest", url) for _ in range(2))
        outcomes = [first.kill_after(rng.uniform(0, whole_time)) if number % 2 else first.wait(), second.wait()]
        done = Counter(shard for outcome in outcomes if not outcome.killed for shard in outcome.checked())
        if not any(outcome.killed for outcome in outcomes):
            assert set(done) == set(range(small.N_SHARDS)), done
            assert not once or done.total() == small.N_SHARDS, done
            tally.twice += done.total() - small.N_SHARDS
        tally.killed += any(outcome.killed for outcome in outcomes)
        tally.starts += 2
        tally.stores += 1
        trials.server.run("tests.reliability.whole:check_and_resume", url, trials.expected).checked()
    return tally


def whole_and_same(url: str, expected: dict[str, str]) -> None:
    """Raise AssertionError where `verify` finds anything, or a file is not the expected one."""
    verdict = verify(url)
    assert verdict.whole and not verdict.unfinished, verdict
    whole.same(url, expected)


def in_threads(url: str, count: int) -> list[list[int]]:
    """Plan and harvest in threads of this process, each with a model of its own; the shards that each computed."""
    found: list[list[int]] = [[] for _ in range(count)]
    failed: list[BaseException] = []

    def one(number: int) -> None:
        try:
            model = load_model(copy.deepcopy(small.model().module), tokenizer=copy.deepcopy(tokenizer()))
            worker = open_harvest(model, small.corpus(), url, small.WISH).worker
            found[number] += [int(report["shard"]) for report in work(worker)]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


def threads(trials: Trials, count: int) -> Writers:
    """`count` threads of one process on one store."""
    url = trials.place(f"threads-{count}")
    done = [
        shard
        for shards in trials.server.run("tests.reliability.writers:in_threads", url, count).checked()
        for shard in shards
    ]
    assert sorted(done) == list(range(small.N_SHARDS)), done
    assert small.hashes(place_of(url)) == trials.expected
    return Writers(starts=count, stores=1)
