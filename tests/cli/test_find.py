"""`conceptlab find heads`: planted heads from a folder, what is written, and what is refused in one line."""

import json

import pytest

from conceptlab.cli import main
from conceptlab.results import Scores, Units
from conceptlab.worlds.concept_tree import CONCEPTS, concept_tree
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


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A model with planted experts, and a file that labels texts of two concepts with names that no folder could have."""
    world, folder = concept_tree(n_texts=12), tmp_path_factory.mktemp("tree")
    world.save(folder / "model")
    names = {"../up": CONCEPTS[0], "a/b": CONCEPTS[1]}
    rows = [("concept", "text", "label")]
    for name, concept in names.items():
        rows += [(name, text, "1") for text in world.prompts[concept]] + [
            (name, t, "0") for t in world.prompts["negative"]
        ]
    (folder / "rows.csv").write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
    return folder, world, names


def test_expert_neurons_of_a_labelled_file_are_ranked_by_concept(tree, tmp_path, capsys):
    folder, world, names = tree
    out = tmp_path / "out"
    line = ["find", "neurons", str(folder / "model"), "--data", str(folder / "rows.csv"), "--detector", "expert"]
    assert main([*line, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "texts through the model" in said.err and "expert: ../up" in said.out
    record = json.loads((out / "found.json").read_text())
    assert list(record["detectors"]) == ["expert: ../up", "expert: a/b"]
    for name, concept in names.items():
        best = record["detectors"][f"expert: {name}"]
        wanted = world.truth["experts"][concept]
        assert {unit["unit"] for unit in best["best"][: len(wanted)]} == set(wanted) and best["best"][0]["q"] <= 0.05
        place = out / best["folder"]
        assert place.parent == out and Units.load(place).kind == "neuron"


def test_the_estimate_is_not_told_where_nothing_else_is(tree, tmp_path, capsys):
    folder, _, _ = tree
    line = ["find", "neurons", str(folder / "model"), "--detector", "vocabulary", "--out", str(tmp_path / "o")]
    assert main([*line, "--json"]) == 0 and capsys.readouterr().err == ""
    assert main([*line, "--quiet"]) == 0 and "texts through" not in capsys.readouterr().err
    assert main(line) == 0 and "0 texts through the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--detector", "expert"], "name their file with --data"),
        (["--detector", "enrichment", "--data", "rows.csv"], "add it to --detector enrichment"),
        (["--data", "missing.csv"], "missing.csv"),
        (["--data", "graded.csv"], "every concept is graded"),
    ],
)
def test_wrong_labels_are_one_line_and_nothing_is_loaded(tree, tmp_path, capsys, more, says):
    folder, _, _ = tree
    (tmp_path / "graded.csv").write_text("text,label\n" + "\n".join(f"word {i},{i / 7:.3f}" for i in range(40)))
    (tmp_path / "rows.csv").write_bytes((folder / "rows.csv").read_bytes())
    given = [str(tmp_path / part) if part.endswith(".csv") else part for part in more]
    assert main(["find", "neurons", str(folder / "nothing"), "--out", str(tmp_path / "o"), *given]) == 2
    told = capsys.readouterr().err
    assert says in told and len(told.strip().splitlines()) == 1
