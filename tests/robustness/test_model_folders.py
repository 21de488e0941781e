"""Malformed model folders: one line, exit code 2, no traceback, no hang, and no foreign code."""

import random
from collections import Counter
from pathlib import Path

import pytest

from conceptlab.cli import checking
from conceptlab.cli.loading import open_model
from conceptlab.cli.options import MODEL_DEFAULTS, OUTPUT_DEFAULTS, ModelOptions
from conceptlab.errors import InputError
from robustness.doors import ACCEPTED, N_FOLDERS, enter_behind_the_parser, judge, told
from robustness.folders_of_models import CODE, bad_folder, make_models


def open_and_encode(source: str, options: ModelOptions) -> None:
    open_model(source, options).encode(["a word"])
    raise InputError(ACCEPTED)


@pytest.fixture
def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(checking, "open_model", open_and_encode)
    enter_behind_the_parser(monkeypatch, lambda path: checking.run_check(path, MODEL_DEFAULTS, OUTPUT_DEFAULTS))


@pytest.mark.usefixtures("behind")
def test_malformed_model_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_models(tmp_path)
    for folder in good:
        assert judge(["check", str(folder)], "good") == "accepted"
    rng, counts = random.Random(11), Counter[str]()
    for number in range(N_FOLDERS):
        how = bad_folder(rng, good, tmp_path / "bad")
        counts[judge(["check", str(tmp_path / "bad")], f"folder {number}: {how}")] += 1
    with capsys.disabled():
        print(told("model folders", counts))
    assert counts["refused"] >= 0.6 * N_FOLDERS


@pytest.mark.usefixtures("behind")
def test_no_config_that_names_code_is_loaded(tmp_path: Path) -> None:
    import json

    good = make_models(tmp_path)
    for key, value in CODE:
        for folder in good:
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            assert judge(["check", str(folder)], f"{key} = {value!r}") == "refused"
            (folder / "config.json").write_text(json.dumps(config))
