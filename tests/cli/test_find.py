"""`conceptlab find heads`: planted heads from a folder, what is written, and what is refused in one line."""

import json

import pytest

from conceptlab.cli import main
from conceptlab.results import Scores, Units
from conceptlab.worlds.induction import induction


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("induction")
    induction().save(folder)
    return folder


def test_planted_heads_are_printed_saved_and_drawn(planted, tmp_path, capsys):
    out = tmp_path / "out"
    names = "induction,previous-token"
    assert main(["find", "heads", str(planted), "--detector", names, "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "L1.H0" in said and "1 of 8" in said and f"saved: {out / 'found.json'}" in said
    record = json.loads((out / "found.json").read_text())
    assert record["detectors"]["induction"]["best"][0]["unit"] == "L1.H0" and record["skipped"] == {}
    assert Units.load(out / "induction").kind == "head" and (out / "previous-token.png").stat().st_size > 1000


def test_json_is_one_object(planted, tmp_path, capsys):
    assert main(["find", "heads", str(planted), "--detector", "induction", "--out", str(tmp_path / "o"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["kind"] == "head" and list(record["detectors"]) == ["induction"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--detector", "mind-reading"], "no detector is called mind-reading"),
        (["--top", "0"], "--top 0 is out of range"),
    ],
)
def test_a_wrong_request_is_one_line(planted, tmp_path, capsys, more, says):
    assert main(["find", "heads", str(planted), "--out", str(tmp_path / "o"), *more]) == 2
    told = capsys.readouterr().err
    assert says in told and len(told.strip().splitlines()) == 1


def test_the_atlas_is_drawn_beside_the_rankings(planted, tmp_path, capsys):
    out = tmp_path / "out"
    names = "induction,previous-token,name-mover"
    assert main(["find", "heads", str(planted), "--detector", names, "--atlas", "--out", str(out), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "confirmed by ablation" in said and f"saved: {out / 'atlas.png'}" in said
    record = json.loads((out / "found.json").read_text())
    roles = record["atlas"]["roles"]
    assert roles["previous-token"] == {
        "stage": "in-context identification", "listed": ["L0.H0", "L0.H1"], "confirmed": ["L0.H0"]
    }  # fmt: skip
    assert roles["induction"]["confirmed"] == ["L1.H0"] and (out / "atlas.png").stat().st_size > 1000
    assert "score" in Scores.load(out / "atlas").data
