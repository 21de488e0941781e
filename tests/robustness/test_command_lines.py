"""Malformed command lines: exit code 2 (0 where help is asked for), one line, no traceback."""

import random
from collections import Counter
from pathlib import Path

import pytest

from conceptlab.cli import checking, mapping
from conceptlab.errors import InputError
from robustness.doors import ACCEPTED, N_LINES, judge, told

WORDS = (
    "map", "models", "check", "atlas", "show", "export", "--concepts", "--out", "--seed", "--json", "--quick", "--to", "--help",
    "--version", "--permutations", "--device", "--dtype", "--revision", "--stack", "--random-weights", "-h", "--", "-", "---",
    "--seed=", "--seed=1", "--json=yes", "--no-json", "--loading", "--run.seed", "--output", "--concepts=", "-x", "--sed",
    "reproduce", "--model", "--data",
)  # fmt: skip
VALUES = (
    "", " ", "0", "-1", "1.5", "1e9", "9" * 500, "nan", "x", "é", "\0", "\n", "a\nb", "\x1b[31m", "../..", "/", "/dev/null",
    "~", "$(id)", "';--", "@x", "{}", "[]", "\ud800", "😀" * 50, "x" * 5000, "cpu", "float32", "absent.csv", "a/b/c", "None", "=",
)  # fmt: skip


def stop_here(*_: object, **__: object) -> None:
    raise InputError(ACCEPTED)


def bad_line(rng: random.Random) -> list[str]:
    line = [rng.choice(rng.choice((WORDS, WORDS, VALUES))) for _ in range(rng.randrange(1, 7))]
    start = rng.choice(
        ([], ["map"], ["map"], ["models", "check"], ["atlas", "show"], ["atlas", "export"], ["reproduce"])
    )
    return [*start, *line]


def test_malformed_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mapping, "open_model", stop_here)
    monkeypatch.setattr(checking, "open_model", stop_here)
    rng, counts = random.Random(7), Counter[str]()
    for number in range(N_LINES):
        line = bad_line(rng)
        counts[judge(line, f"line {number}: {line!r}", help_allowed=True)] += 1
    with capsys.disabled():
        print(told("command lines", counts))
    assert counts["refused"] >= 0.6 * N_LINES
    assert not list(tmp_path.iterdir())
