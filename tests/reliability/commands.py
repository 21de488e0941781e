"""The command on a disk that refuses: `conceptlab harvest` ends with exit code 1, one line that says why and one that resumes."""

import contextlib
import errno
import io
import os
import random
from pathlib import Path

from conceptlab.cli import main
from conceptlab.runs.place import place_of
from tests.model.tiny import tokenizer
from tests.reliability import faults, small, whole
from tests.reliability.kills import Trials

OPTIONS = (
    "--sites",
    "resid_post,embed",
    "--context",
    "16",
    "--batch-tokens",
    "32",
    "--shard-tokens",
    "48",
    "--threads",
    "1",
)


def files(base: Path) -> list[str]:
    """A model and a corpus as files: their paths."""
    model, corpus = base / "model", base / "corpus.txt"
    small.fresh_module().save_pretrained(model)
    tokenizer().save_pretrained(model)
    corpus.write_text("\n".join(small.corpus().texts) + "\n")
    return [str(model), str(corpus)]


def harvest(
    model: str, corpus: str, store: str, at: int | None = None, error: str = "EIO"
) -> tuple[int, str, list[str]]:
    """The command, with one call below the store failing: exit code, standard error, and the calls that were made."""

    def fail(call: str) -> None:
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    told = io.StringIO()
    with contextlib.redirect_stderr(told), faults.Shim(store, at, fail, stays=error in faults.STAYING) as shim:
        code = main(["harvest", model, corpus, store, *OPTIONS])
    return code, told.getvalue(), shim.calls


def expected(model: str, corpus: str, store: str) -> dict[str, str]:
    """The files of a harvest by command that nothing disturbs."""
    assert main(["harvest", model, corpus, store, *OPTIONS]) == 0
    return small.hashes(place_of(store))


def resumed(model: str, corpus: str, store: str, files: dict[str, str]) -> None:
    """The same command again: done, with the same files."""
    assert main(["harvest", model, corpus, store, *OPTIONS]) == 0
    whole.same(store, files)


def at_every_call(trials: Trials, base: Path, count: int | None = None, seed: int = 0) -> faults.Failures:
    """Let each call below the store fail (`count` None) with an error drawn at random, or `count` of them."""
    rng, tally, inputs = random.Random(seed), faults.Failures(), files(base)
    before = trials.server.run("tests.reliability.commands:expected", *inputs, trials.place("command")).checked()
    _, _, calls = trials.server.run(
        "tests.reliability.commands:harvest", *inputs, trials.place("command-calls")
    ).checked()
    for at in faults.drawn(list(range(len(calls))), calls, count, seed):
        url, error = trials.place(f"command-{at}"), rng.choice(faults.ERRORS)
        code, told, _ = trials.server.run("tests.reliability.commands:harvest", *inputs, url, at, error).checked()
        tally.failures += 1
        tally.calls[calls[at]] += 1
        if code == 0:
            tally.harmless += 1
        else:
            lines = [line for line in told.splitlines() if line.startswith(("error:", "resume with:"))]
            where = f"{calls[at]} number {at} with {error}:\n{told}"
            assert code == 1 and "Traceback" not in told and "trace is in" not in told, where
            assert [line.split(":")[0] for line in lines] == ["error", "resume with"], where
            tally.one_line += 1
        trials.server.run("tests.reliability.commands:resumed", *inputs, url, before).checked()
    return tally
