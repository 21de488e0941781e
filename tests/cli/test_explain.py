"""`conceptlab explain`: a planted circuit from files, what is written, and what is refused in one line."""

import csv
import json
from pathlib import Path

import pytest

from conceptlab.cli import main
from conceptlab.results import Circuit
from conceptlab.worlds.ioi import ioi


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[str]]]:
    """A folder with the model of the IOI world, and its pairs as rows of a file."""
    world, folder = ioi(n_prompts=16), tmp_path_factory.mktemp("ioi")
    world.save(folder / "model")
    answers = zip(world.answer_ids("clean"), world.answer_ids("swapped"), strict=True)
    words = [[world.tokenizer.decode([a]), world.tokenizer.decode([b])] for a, b in answers]
    prompts = zip(world.prompts["clean"], world.prompts["swapped"], words, strict=True)
    return folder / "model", [[clean, swapped, *said] for clean, swapped, said in prompts]


def written(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["clean", "corrupted", "answer", "distractor"], *rows])
    return path


def test_a_planted_circuit_is_explained_saved_and_drawn(planted, tmp_path, capsys):
    model, rows = planted
    pairs, out = written(tmp_path / "pairs.csv", rows), tmp_path / "out"
    assert main(["explain", str(model), "--pairs", str(pairs), "--out", str(out), "--n-exact", "16"]) == 0
    said, told = capsys.readouterr()
    assert "edges carry" in said and "L2.H0 -> logits: +1.4" in said and f"saved: {out / 'explanation.json'}" in said
    assert "16 pairs in" in told and "at most about" in told
    record = json.loads((out / "explanation.json").read_text())
    assert {(e["source"], e["target"]) for e in record["edges"]} == set(Circuit.load(out / "circuit").edge_names())
    assert record["faithfulness"]["score"] == pytest.approx(1.0, abs=0.05) and record["faithfulness"]["control"] < 0.2
    assert (out / "circuit.png").stat().st_size > 5000 and "<html" in (out / "circuit.html").read_text()[:300]


def test_a_pair_that_explains_nothing_says_so(planted, tmp_path, capsys):
    model, rows = planted
    same = [[clean, clean, *words] for clean, _, *words in rows]
    assert main(["explain", str(model), "--pairs", str(written(tmp_path / "same.csv", same))]) == 2
    assert "are the same text" in capsys.readouterr().err
    other = [[clean, rows[(i + 1) % len(rows)][0], *words] for i, (clean, _, *words) in enumerate(rows)]
    shuffled = [[a, b, *words] for (a, b, *_), (_, _, *words) in zip(other, rows[3:] + rows[:3], strict=True)]
    code = main(["explain", str(model), "--pairs", str(written(tmp_path / "x.csv", shuffled)), "--json", "--out",
                 str(tmp_path / "x"), "--n-exact", "8"])  # fmt: skip
    out, err = capsys.readouterr()
    assert code == 0 and len(json.loads(out)["edges"]) <= 1 and err == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [[rows[0][0], rows[0][1] + " to", *rows[0][2:]], *rows[1:]], "token"),
        (lambda rows: [[*rows[0][:2], rows[0][2], rows[0][2]], *rows[1:]], "give two different words"),
        (lambda rows: [], "columns clean, corrupted, answer, distractor"),
    ],
)
def test_bad_pairs_are_one_line(planted, tmp_path, capsys, change, says):
    model, rows = planted
    pairs = written(tmp_path / "pairs.csv", change(rows))
    assert main(["explain", str(model), "--pairs", str(pairs), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and len(err.strip().splitlines()[-1]) < 400 and "Traceback" not in err
    assert not (tmp_path / "out" / "explanation.json").exists()


def test_numbers_out_of_range_are_refused_before_the_model_is_read(tmp_path, capsys):
    assert main(["explain", "nowhere", "--pairs", str(tmp_path / "none.csv"), "--n-exact", "0"]) == 2
    assert "--n-exact 0 is out of range" in capsys.readouterr().err
    assert main(["explain", "nowhere", "--pairs", str(tmp_path / "none.csv")]) == 2
    assert "no such file" in capsys.readouterr().err
