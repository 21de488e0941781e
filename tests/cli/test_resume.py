"""Ctrl-C and a full disk in the middle of `conceptlab map`: the same command goes on, and ends with the same atlas."""

import errno
import itertools
import os
from pathlib import Path

import pytest

from conceptlab.atlas import Atlas, mapping
from conceptlab.cli import main
from robustness.folders_of_models import make_models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_models(tmp_path_factory.mktemp("models"))[0]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "words.csv"
    texts = [" ".join(words) for words in itertools.product(("a", "word"), repeat=4)]
    rows = [
        f"{text},{name},{text.split()[place]}"
        for name, place in (("last", 3), ("first", 0), ("third", 2))
        for text in texts
    ]
    path.write_text("text,concept,label\n" + "\n".join(rows))
    return path


def command(model: Path, labels: Path, out: Path) -> list[str]:
    return [
        "map",
        str(model),
        "--concepts",
        str(labels),
        "--out",
        str(out),
        "--quick",
        "--permutations",
        "19",
        "--quiet",
    ]


def same_but_for_time(one: Atlas, other: Atlas) -> bool:
    return one.concepts == other.concepts and one.geometry == other.geometry


def interrupt_at(n: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the n-th concept of a run raise; the names of the concepts that were started."""
    real, started = mapping.map_concept, []

    def watched(model, concept, *args, **options):
        started.append(concept.name)
        if len(started) == n:
            raise error
        return real(model, concept, *args, **options)

    monkeypatch.setattr(mapping, "map_concept", watched)
    return started


def test_ctrl_c_keeps_what_was_finished_and_the_same_command_goes_on(
    model: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = command(model, labels, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        started = interrupt_at(3, KeyboardInterrupt(), patch)
        assert main(line) == 130
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == f"resume with: conceptlab {' '.join(line)}"
    assert started == ["last", "first", "third"]
    with monkeypatch.context() as patch:
        started = interrupt_at(99, KeyboardInterrupt(), patch)
        assert main(line) == 0
    assert started == ["third"]
    assert main(command(model, labels, tmp_path / "whole")) == 0
    assert same_but_for_time(Atlas.load(tmp_path / "stopped"), Atlas.load(tmp_path / "whole"))
    assert (tmp_path / "stopped" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("nth", [0, 12])
def test_a_disk_that_fills_up_is_exit_code_1_and_resumable(
    model: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    nth: int,
) -> None:
    line, count, real = command(model, labels, tmp_path / "full"), itertools.count(), os.fsync

    def fsync(handle: int) -> None:
        if next(count) >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        assert main(line) == 1
    error, resume = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "disk is full" in error or "No space left" in error
    assert resume.startswith("resume with: conceptlab map")
    assert main(line) == 0
    assert len(Atlas.load(tmp_path / "full").concepts) == 3
