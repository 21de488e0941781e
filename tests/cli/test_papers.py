"""`conceptlab papers` and `conceptlab reproduce`: what is printed, what is written, what is refused in one line."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from catalog.tiny_recipe import ID, put, recipe_folder
from conceptlab.cli import main, reproducing
from conceptlab.cli.reproducing import shown

__all__ = ["recipe_folder"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_the_table_has_every_row_and_its_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["papers"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("150 published systems: ")
    assert main(["papers", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert len(listed["papers"]) == sum(listed["counts"].values()) == 150
    assert all(row["id"] in out for row in listed["papers"])


def test_filters_choose_rows(recipe_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(recipe_folder)
    assert main(["papers", "--state", "works", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["id"] for row in listed["papers"]] == [ID]
    assert listed["counts"] == {"works": 1, "method": 0, "planned": 0}
    assert main(["papers", "--family", "survey", "--state", "planned"]) == 0
    out = capsys.readouterr().out
    assert "attention-heads-survey" in out
    assert ID not in out


def test_one_row_says_how_to_run_it(recipe_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(recipe_folder, data="a table with a column text")
    assert main(["papers", ID]) == 0
    out = capsys.readouterr().out
    for said in ("claim:", "the same share on shuffled labels", "a made-up world", "a table with a column text",
                 "takes none", f"conceptlab reproduce {ID}"):  # fmt: skip
        assert said in out
    assert main(["papers", "soft-thinking"]) == 0
    out = capsys.readouterr().out
    assert "planned: not built yet" in out
    assert "run:" not in out
    assert main(["papers", "concept-depth", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == "conceptlab map MODEL --concepts FILE"


def test_the_list_is_quick_and_imports_no_model_library() -> None:
    heavy = ("torch", "transformers", "xarray", "numpy", "altair")
    code = f"import sys; from conceptlab.cli import main; main(['papers']); print(*[m for m in {heavy!r} if m in sys.modules])"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    print(f"conceptlab papers: {seconds:.2f} s")
    assert done.stdout.splitlines()[-1] == ""
    assert seconds < 5  # 0.3 s on an idle machine; this one may be busy


def test_a_run_prints_numbers_beside_controls_and_keeps_them(
    recipe_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(recipe_folder)
    assert main(["reproduce", ID, "--quick", "--seed", "4"]) == 0
    out, err = capsys.readouterr()
    assert f"{ID}, quick form on a made-up world: a few seconds" in err
    for said in ("claim: Something was claimed.", "0.9", "0.85 to 0.95", "0.1", "at least 0.8", "holds", "no verdict",
                 "control: the same share", "note: quick=True", "verdict: holds (1 of 1 findings)", "time: ",
                 f"saved: conceptlab-reproductions/{ID}/reproduction.json (results: 1, charts: 1)"):  # fmt: skip
        assert said in out
    record = json.loads((here / "conceptlab-reproductions" / ID / "reproduction.json").read_text())
    assert record["provenance"]["seed"] == 4


def test_json_is_one_object_and_no_progress(
    recipe_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(recipe_folder)
    assert main(["reproduce", ID, "--json", "--out", "o"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    record = json.loads(out)
    assert (record["id"], record["holds"], record["out"]) == (ID, True, "o")
    assert record["findings"][0]["control"] == 0.1
    assert (here / "o" / "charts" / "the-heads.png").exists()


def test_a_finding_that_does_not_hold_is_said_and_is_no_failure(
    recipe_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(recipe_folder, holds=False)
    assert main(["reproduce", ID]) == 0
    assert "verdict: does NOT hold in 1 of 1 findings: share" in capsys.readouterr().out


def test_the_embedded_model_has_a_name(
    recipe_folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(recipe_folder, model="any")
    seen = []

    def open_model(source: str | None, options: object, *, seed: int) -> object:
        seen.append((source, options.device, seed))
        return SimpleNamespace(name=source or "embedded")

    monkeypatch.setattr(reproducing, "open_model", open_model)
    assert main(["reproduce", ID, "--model", "embedded", "--device", "cpu", "--seed", "2"]) == 0
    assert main(["reproduce", ID, "--model", "org/m"]) == 0
    assert seen == [(None, "cpu", 2), ("org/m", None, 0)]
    assert "on org/m: no estimate for your own model or data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["papers", "soft-thinkin"], "did you mean soft-thinking"),
        (["papers", "--family", "circuit"], "did you mean circuits?"),
        (["papers", "--state", "done"], "--state"),
        (["papers", ID, "--state", "works"], "leave --family and --state out"),
        (["papers", ID, "more"], "Unused"),
        (["reproduce"], "requires an argument"),
        (["reproduce", "lcm-futur"], "did you mean lcm-future"),
        (["reproduce", "soft-thinking"], "soft-thinking is not built"),
        (["reproduce", "concept-depth"], "its method runs with: conceptlab map"),
        (["reproduce", ID, "--model", "gpt2"], "takes no model"),
        (["reproduce", ID, "--data", "absent.csv"], "absent.csv: no such file; lcm-future expects a table"),
        (["reproduce", ID, "--data", "a\0b"], "no such file"),
        (["reproduce", ID, "--device", "cpu"], "options of the model need --model"),
        (["reproduce", ID, "--seed", "-1"], "--seed -1 is out of range"),
        (["reproduce", ID, "--out", "file"], "--out file: "),
        (["reproduce", ID, "--out", "file/below"], "is a file; give a folder"),
        (["reproduce", ID, "--out", "a\0b"], "--out holds NUL"),
        (["reproduce", ID, "--permutations", "20"], "Unknown option"),
        (["reproduce", "\x1b[31m\n"], "no row"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    recipe_folder: Path, here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    put(recipe_folder, data="a table", body="raise RuntimeError('it ran')")
    (here / "file").write_text("")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert "\x1b" not in err
    assert [path.name for path in here.iterdir()] == ["file"]


def test_bad_input_that_a_recipe_finds_is_one_line(
    recipe_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(recipe_folder, body="from conceptlab.errors import InputError; raise InputError('row 3: no answer')")
    assert main(["reproduce", ID, "--quiet"]) == 2
    assert capsys.readouterr() == ("", "error: row 3: no answer\n")
    assert not list(here.iterdir())


def test_an_interrupted_run_says_what_is_kept(
    recipe_folder: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(recipe_folder, body="raise KeyboardInterrupt")
    assert main(["reproduce", ID, "--quiet"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "interrupted; models trained so far are kept in the cache, and nothing else is written",
        f"resume with: conceptlab reproduce {ID} --quiet",
    ]
    assert not list(here.iterdir())


@pytest.mark.parametrize("command", ["papers", "reproduce"])
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    promised = {"papers": "--family --state --json", "reproduce": "--model --data --out --seed --quick --json --device"}
    assert all(option in out for option in promised[command].split())


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (float("nan"), "–"), (0.12345, "0.123"), (12345.6, "12346"), (float("inf"), "inf")]
)
def test_numbers_are_short(value: float | None, said: str) -> None:
    assert shown(value) == said
