"""Files of records, contests, analogies and derivations: three formats read alike, every mistake one line that names its place."""

import json

import pytest

from conceptlab.data.analogies import read_analogies
from conceptlab.data.contests import contest, read_contests
from conceptlab.data.derivations import read_derivations
from conceptlab.data.records import read_records, texts_of
from conceptlab.errors import DataError

ROWS = [{"prompt": "so A is b, said C.", "target_true": " d", "target_new": " b"},
        {"prompt": 'and "E" is f', "target_true": "g", "target_new": "f"}]  # fmt: skip


def written(folder, kind, rows=ROWS):
    path = folder / f"rows{kind}"
    if kind == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif kind == ".jsonl":
        path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        lines = [
            ",".join(rows[0]),
            *(",".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in rows),
        ]
        path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_three_formats_read_alike(tmp_path):
    tables = [
        read_records(written(tmp_path, kind), ("prompt",), ("target_true", "none"))
        for kind in (".csv", ".jsonl", ".json")
    ]
    assert all(texts_of(t, "prompt") == tuple(r["prompt"] for r in ROWS) for t in tables)
    assert all(set(t.columns) == {"prompt", "target_true"} for t in tables)
    assert [list(t.places) for t in tables] == [[2, 3], [1, 3], [1, 2]]


def test_contests_know_where_their_counterfactual_stands(tmp_path):
    found = read_contests(written(tmp_path, ".json"))
    assert found[0] == contest(*ROWS[0].values()) and found[0].prompt[slice(*found[0].span)] == "b"
    assert found[0].consistent == "so A is d, said C." and found[0].consistent[slice(*found[0].consistent_span)] == "d"
    assert len(read_contests(written(tmp_path, ".json"), most=1)) == 1


def test_analogies_are_prompts_and_taken_from_every_relation(tmp_path):
    rows = [{"a": "x", "b": "yy", "c": "z", "d": f"w{i}", "relation": name} for name in ("r", "s") for i in range(10)]
    found = read_analogies(written(tmp_path, ".csv", rows))
    assert (
        len(found) == 20
        and found[0].prompt == "x is to yy as z is to"
        and found[0].prompt[slice(*found[0].b_span)] == "yy"
    )
    fewer = read_analogies(written(tmp_path, ".csv", rows), most=6)
    assert [item.relation for item in fewer] == ["r"] * 3 + ["s"] * 3


def test_derivations_know_where_their_context_ends(tmp_path):
    rows = [{"prompt": "A is B. So A is", "answer": "B", "noise": "C is D. So C is", "noise_answer": "D"}]
    found = read_derivations(written(tmp_path, ".jsonl", rows))
    assert found[0].prompt[: found[0].context_end] == "A is B."
    assert read_derivations(written(tmp_path, ".jsonl", rows * 3), most=2) == found * 2


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("r.csv", "", "has no records"),
        ("r.csv", "prompt,target_true\na,b\n", "no column 'target_new'"),
        ("r.csv", "prompt,target_true,target_new\na,b\n", "line 2: 2 cells where the header has 3"),
        ("r.csv", 'prompt,target_true,target_new\n"a,b,c\n', "broken quoting"),
        ("r.csv", "prompt,target_true,target_new\na c,,c\n", "line 2: 'target_true' is empty"),
        ("r.csv", "prompt,target_true,target_new\na,b,c\n", "does not hold its target_new 'c'"),
        ("r.csv", "prompt,target_true,target_new\na c,c,c\n", "are both 'c'"),
        ("r.jsonl", "[1]\n", "line 1: holds list, not an object"),
        ("r.jsonl", "{", "line 1: JSON that cannot be read"),
        ("r.jsonl", '{"prompt": 3, "target_true": "b", "target_new": "c"}', "'prompt' is 3, which is no text"),
        ("r.json", '{"a": 1}', "holds dict, not a list"),
        ("r.json", "[1]", "record 1: holds int, not an object"),
        ("r.json", "[" * 100_000, "cannot be read"),
        ("r.json", "\x00", "NUL"),
        ("r.txt", "x", "unknown kind of file '.txt'"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=says) as caught:
        read_contests(path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.csv", ("a",))
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path.with_suffix(".csv"), ("a",))
    one = [{"a": "x", "b": "y", "c": "z", "d": "w", "relation": "r"}]
    with pytest.raises(DataError, match="give at least two relations"):
        read_analogies(written(tmp_path, ".json", one))
    flat = [{"prompt": "A is", "answer": "B", "noise": "C is", "noise_answer": "D"}]
    with pytest.raises(DataError, match="has no full stop"):
        read_derivations(written(tmp_path, ".json", flat))
