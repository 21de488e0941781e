"""Texts with fillers beside written steps: every kind of file reads alike, and what is wrong is named with its line."""

import csv
import json

import pytest

from conceptlab.data.filler_texts import FillerText, read_filler_texts
from conceptlab.errors import DataError

ROWS = [
    {"prompt": f"{n} + 2 : . =", "written": f"{n} + 2 : {n + 2} =", "answer": "yes", "more": "ignored"}
    for n in range(3)
]


def write(folder, kind, rows):
    path = folder / f"texts{kind}"
    if kind == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        text = json.dumps(rows) if kind == ".json" else "\n".join(map(json.dumps, rows))
        path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".json"])
def test_every_kind_of_file_reads_alike(tmp_path, kind):
    path = write(tmp_path, kind, ROWS)
    found = read_filler_texts(path)
    assert found == [FillerText(row["prompt"], row["written"], row["answer"]) for row in ROWS]
    assert read_filler_texts(path, most=2) == found[:2]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"written": ROWS[0]["prompt"]}, "line 1: prompt and written are both '0 \\+ 2 : . ='"),
        ({"answer": ""}, "line 1: 'answer' is empty"),
        ({"prompt": 3}, "line 1: 'prompt' is .* no text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, says):
    with pytest.raises(DataError, match=says):
        read_filler_texts(write(tmp_path, ".jsonl", [{**ROWS[0], **change}, *ROWS[1:]]))
