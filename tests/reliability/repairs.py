"""Repairs that are killed, and harvests that are interrupted (Ctrl-C): the next call goes on to the same bytes."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from conceptlab.store.repairing import repair
from conceptlab.store.verifying import verify
from tests.reliability import flips, small, whole
from tests.reliability.kills import Trials

PROMPT = 20.0  # seconds that an interrupted harvest may take to end


@dataclass
class Stopped:
    """Calls that were stopped, and how."""

    stopped: int = 0
    how: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {how}" for how, count in sorted(self.how.items()))
        return f"{self.stopped:,} ({kinds}); all went on to the same bytes"


def killed_repairs(trials: Trials, n_kills: int, base: Path, seed: int = 0) -> Stopped:
    """Damage one to three files of a store, kill its repair at a random moment, and repair to the end."""
    rng, tally = random.Random(seed), Stopped()
    store = flips.make(base / "repaired")
    expected = small.hashes(whole.place_of(store))
    number, longest = 0, 0.5
    while tally.stopped < n_kills:
        number += 1
        url = base / f"repair-{number}"
        shutil.copytree(store, url)
        damaged = _damaged(url, rng)
        outcome = trials.server.start("tests.reliability.repairs:repaired", str(url)).kill_after(
            rng.uniform(0, longest)
        )
        if outcome.killed:
            tally.stopped += 1
            tally.how.update(damaged)
        else:
            outcome.checked()
        trials.server.run("tests.reliability.repairs:repaired_to_the_end", str(url), expected).checked()
        shutil.rmtree(url)
    return tally


def _damaged(store: Path, rng: random.Random) -> list[str]:
    """Flip a byte of, or cut, some files of a store; which kinds."""
    kinds = {kind: name for kind, name in flips.kinds(store).items() if kind != "manifest"}
    chosen = rng.sample(sorted(kinds), rng.randint(1, 3))
    for kind in chosen:
        path = store / kinds[kind]
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(content[: rng.choice((None, rng.randrange(len(content))))])
    return chosen


def repaired(url: str) -> None:
    """Repair a store."""
    repair(url, verify(url), flips._model, flips._corpus)


def repaired_to_the_end(url: str, expected: dict[str, str]) -> int:
    """Verify and repair until nothing is found (at most three times), then harvest what is not finished; how often."""
    for rounds in range(4):
        verdict = verify(url)
        if verdict.whole:
            break
        assert rounds < 3, verdict
        repair(url, verdict, flips._model, flips._corpus)
    small.harvest(url, flips.WISH, small.corpus(flips.TEXTS))
    whole.same(url, expected)
    assert verify(url).whole
    return rounds


def interrupted(trials: Trials, count: int, seed: int = 0) -> Stopped:
    """Ctrl-C at random moments: the harvest ends soon, by KeyboardInterrupt, and goes on."""
    rng, tally = random.Random(seed), Stopped()
    timed = trials.server.run("tests.reliability.small:harvest", trials.place("interrupt-timed")).seconds
    number = 0
    while tally.stopped < count:
        number += 1
        url = trials.place(f"interrupt-{seed}-{number}")
        child = trials.server.start("tests.reliability.small:harvest", url)
        time.sleep(rng.uniform(0.02, timed))
        asked = time.perf_counter()
        os.kill(child.pid, signal.SIGINT)
        outcome = child.wait()
        assert time.perf_counter() - asked < PROMPT, outcome
        if outcome.code != 0:
            assert outcome.error == "KeyboardInterrupt", outcome
            tally.stopped += 1
            tally.how["by Ctrl-C"] += 1
        trials.server.run("tests.reliability.whole:check_and_resume", url, trials.expected).checked()
    return tally
