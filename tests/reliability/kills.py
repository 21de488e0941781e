"""Bar 1: `kill -9` at random moments, at every named moment of the write path and before every call to the file system."""

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from statistics import median

from conceptlab.runs import moments
from tests.reliability import small
from tests.reliability.fork_server import ForkServer, Outcome

AGAIN = 0.4  # how often the work that goes on is killed, too


@dataclass
class Kills:
    """Kills done, and what they met."""

    kills: int = 0
    resumed: int = 0
    met: Counter[str] = field(default_factory=Counter)
    shards_kept: int = 0

    def __str__(self) -> str:
        phases = ", ".join(f"{count} {phase}" for phase, count in sorted(self.met.items()))
        return (
            f"{self.kills:,} kills ({phases}), {self.shards_kept:,} finished shards kept, "
            f"{self.resumed:,} stores resumed to the same bytes"
        )


@dataclass
class Trials:
    """A fork server, where stores are made (`place(number)` gives a new URL), and the hashes of the undisturbed store."""

    server: ForkServer
    place: Callable[[object], str]
    expected: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.expected = self.server.run("tests.reliability.whole:make", self.place("undisturbed")).checked()

    def after(self, url: str, tally: Kills, *, resume: bool = True) -> None:
        """Check a store that was left in the middle, and go on to its end."""
        call = "check_and_resume" if resume else "check_only"
        found = self.server.run(f"tests.reliability.whole:{call}", url, self.expected).checked()
        tally.met[found["phase"]] += 1
        tally.shards_kept += found["finished"]
        tally.resumed += resume


def at_random(trials: Trials, n_kills: int, seed: int = 0) -> Kills:
    """Kill `n_kills` times at moments drawn evenly over the time that planning and harvest take; some stores several times."""
    rng, tally = random.Random(seed), Kills()
    whole = median(_seconds(trials, number) for number in range(5 if n_kills > 50 else 1))
    store = 0
    while tally.kills < n_kills:
        store += 1
        url, left = trials.place(f"random-{seed}-{store}"), whole
        while tally.kills < n_kills:
            outcome = trials.server.start("tests.reliability.small:harvest", url).kill_after(rng.uniform(0, left))
            if not outcome.killed:
                outcome.checked()
                break
            tally.kills += 1
            again = rng.random() < AGAIN and tally.kills < n_kills
            trials.after(url, tally, resume=not again)
            if not again:
                break
    return tally


def _seconds(trials: Trials, number: int) -> float:
    outcome = trials.server.run("tests.reliability.small:harvest", trials.place(f"timed-{number}"))
    outcome.checked()
    return outcome.seconds


def at_moments(trials: Trials, n_kills: int | None = None, seed: int = 0) -> Kills:
    """Kill at named moments: at every occurrence of each, or `n_kills` times, the first of each and others drawn at random."""
    passed: list[str] = trials.server.run("tests.reliability.kills:moments_of", trials.place("moments")).checked()
    unseen = set(moments.MOMENTS) ^ set(passed)
    assert unseen <= ({"file renamed", "commit linked"} if "://" in trials.place("none") else set()), unseen
    first = sorted(passed.index(name) for name in set(passed))
    others = [index for index in range(len(passed)) if index not in first]
    random.Random(seed).shuffle(others)
    chosen = first + (others if n_kills is None else others[: max(0, n_kills - len(first))])
    tally = Kills()
    for index in chosen:
        url = trials.place(f"moment-{index}")
        outcome: Outcome = trials.server.run("tests.reliability.kills:harvest_until", url, index)
        assert outcome.killed, f"{passed[index]} ({index}) was not reached: {outcome}"
        tally.kills += 1
        trials.after(url, tally)
    return tally


def moments_of(url: str) -> list[str]:
    """The moments that a harvest passes, in order."""
    passed: list[str] = []
    moments.watch(passed.append)
    small.harvest(url)
    return passed


def harvest_until(url: str, index: int) -> None:
    """Harvest, and die at moment number `index`."""
    passed, lock = count(), threading.Lock()

    def watcher(name: str) -> None:
        with lock:
            if next(passed) == index:
                os.kill(os.getpid(), signal.SIGKILL)

    moments.watch(watcher)
    small.harvest(url)
