"""Malformed labelled files: one line, exit code 2, no traceback, no hang, no memory gone."""

import random
import resource
from collections import Counter
from pathlib import Path

import pytest

from conceptlab.cli import mapping
from conceptlab.cli.options import MODEL_DEFAULTS, OUTPUT_DEFAULTS, RUN_DEFAULTS
from conceptlab.errors import InputError
from robustness.bytes_of_files import bad_file, giant_files
from robustness.doors import ACCEPTED, N_FILES, enter_behind_the_parser, judge, told

DEFAULTS = (MODEL_DEFAULTS, RUN_DEFAULTS, OUTPUT_DEFAULTS)


def stop_here(*_: object, **__: object) -> None:
    raise InputError(ACCEPTED)


def test_malformed_labelled_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mapping, "open_model", stop_here)
    enter_behind_the_parser(monkeypatch, lambda path: mapping.run_map("m", Path(path), None, *DEFAULTS))
    rng = random.Random(20261120)
    giants, counts = giant_files(), Counter[str]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(N_FILES):
        kind, content = giants[number] if number < len(giants) else bad_file(rng)
        path = tmp_path / f"labels.{kind}"
        path.write_bytes(content)
        counts[judge(["map", "m", "--concepts", str(path)], f"file {number}: {kind} {content[:200]!r}")] += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    with capsys.disabled():
        print(told("labelled files", counts), f"memory grew by {grown:.0f} MB", sep=", ")
    assert counts["refused"] >= 0.7 * N_FILES
    assert grown < 300
