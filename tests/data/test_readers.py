"""Labelled files: the same content gives the same concepts in every format, and every problem is one line."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conceptlab.data import Concept, ConceptSet, read_concepts
from conceptlab.errors import DataError

ROWS = [{"text": f"text number {i}, with a comma", "label": "even" if i % 2 == 0 else "odd"} for i in range(12)]


def as_csv(folder: Path, rows: list[dict], name: str = "toy.csv") -> Path:
    import csv

    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_jsonl(folder: Path, rows: list[dict]) -> Path:
    path = folder / "toy.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_parquet(folder: Path, rows: list[dict]) -> Path:
    path = folder / "toy.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
def test_every_format_gives_the_same_content(tmp_path: Path, write) -> None:
    rows = [{**row, "concept": "parity", "group": f"g{i // 2}", "start": 0, "end": 4} for i, row in enumerate(ROWS)]
    rows = [{**row, "words": "two,four" if row["label"] == "even" else "one, three"} for row in rows]
    read = read_concepts(write(tmp_path, rows))
    concept = read["parity"]
    assert (concept.kind, concept.class_names, concept.n) == ("binary", ("even", "odd"), 12)
    assert concept.labels.tolist() == [0, 1] * 6
    assert concept.groups is not None
    assert concept.groups.tolist() == [i // 2 for i in range(12)]
    assert concept.spans == ((0, 4),) * 12
    assert concept.words == (("two", "four"), ("one", "three"))
    assert read.data_hash == read_concepts(as_csv(tmp_path, rows, "other.csv")).data_hash


def test_the_hash_sees_every_part_of_the_content() -> None:
    texts = tuple("abcdefghij")
    labels = np.arange(10) % 2

    def hashed(**changed: object) -> str:
        base = {"name": "c", "texts": texts, "labels": labels, "kind": "binary", "class_names": ("n", "y")}
        return ConceptSet("s", (Concept(**{**base, **changed}),)).data_hash  # type: ignore[arg-type]

    seen = {
        hashed(),
        hashed(name="d"),
        hashed(texts=texts[::-1]),
        hashed(labels=1 - labels),
        hashed(class_names=("n", "z")),
        hashed(groups=np.arange(10)),
        hashed(spans=((0, 1),) * 10),
        hashed(words=(("no",), ("yes",))),
    }
    assert len(seen) == 8
    assert hashed() == hashed()


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        (["true", "False"] * 6, "binary", ("false", "true")),
        (["0", "1"] * 6, "binary", ("0", "1")),
        (["1.0", "0.0"] * 6, "binary", ("0", "1")),
        (["b", "a", "c"] * 5, "classes", ("a", "b", "c")),
        ([str(i % 10) for i in range(50)], "classes", tuple("0123456789")),
        ([str(i % 11) for i in range(55)], "graded", ()),
        (["0.5", "1"] * 6, "graded", ()),
    ],
)
def test_the_kind_follows_the_stated_rule(tmp_path: Path, labels: list[str], kind: str, names: tuple[str, ...]) -> None:
    rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
    concept = read_concepts(as_csv(tmp_path, rows))["toy"]
    assert (concept.kind, concept.class_names) == (kind, names)
    assert concept.labels.dtype == (np.float64 if kind == "graded" else np.int64)


def test_typed_formats_keep_their_types(tmp_path: Path) -> None:
    booleans = [{**row, "label": i % 2 == 0} for i, row in enumerate(ROWS)]
    digits = [{**row, "label": str(i % 2)} for i, row in enumerate(ROWS)]
    assert read_concepts(as_parquet(tmp_path, booleans))["toy"].class_names == ("false", "true")
    assert read_concepts(as_jsonl(tmp_path, digits))["toy"].kind == "binary"


def test_repeated_texts_share_a_fold(tmp_path: Path) -> None:
    rows = [*ROWS, *ROWS[:3]]
    groups = read_concepts(as_csv(tmp_path, rows))["toy"].groups
    assert groups is not None
    assert groups.tolist() == [*range(12), 0, 1, 2]
    assert read_concepts(as_csv(tmp_path, ROWS))["toy"].groups is None


def test_several_concepts_and_empty_optionals(tmp_path: Path) -> None:
    rows = [{**row, "concept": "a", "start": "", "end": "", "group": ""} for row in ROWS]
    rows += [{**row, "concept": "b", "label": i / 7, "start": 0, "end": 3, "group": i} for i, row in enumerate(ROWS)]
    read = read_concepts(as_csv(tmp_path, rows))
    assert [concept.kind for concept in read] == ["binary", "graded"]
    assert read["a"].groups is None
    assert read["a"].spans == (None,) * 12
    assert len(read) == 2


def test_quoted_line_breaks_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    body = "".join(f'"line one\nline two {i}",{i % 2}\r\n' for i in range(12))
    path.write_bytes(b"\xef\xbb\xbf" + f"text,label\r\n{body}".encode())
    assert read_concepts(path)["odd"].texts[3] == "line one\nline two 3"


HEAD = "text,label\n"
GOOD = "".join(f"text {i},{'a' if i % 2 else 'b'}\n" for i in range(12))
BAD_CSV = {
    "missing column": ("statement,label\nx,1\n", "no column 'text' (present: 'statement', 'label')"),
    "both missing": ("a,b\nx,1\n", "no column 'text' and 'label'"),
    "case": ("Text,label\nx,1\n", "'Text' differs from 'text'"),
    "twice": ("text,label,label\nx,1,1\n", "'label' appears 2 times"),
    "no rows": (HEAD, "has a header and no rows"),
    "blank": ("\n\n", "is empty"),
    "one class": (HEAD + "x,1\ny,1\n", "every label of concept 'bad' is '1'"),
    "empty text": (HEAD + GOOD + ",a\n", "line 14: the text is empty"),
    "blank text": (HEAD + GOOD + '"  ",a\n', "line 14: the text is empty"),
    "empty label": (HEAD + GOOD + "x,\n", "line 14: the label is empty"),
    "nan label": (HEAD + GOOD + "x,NaN\n", "line 14: the label is 'NaN'"),
    "infinite label": (HEAD + "".join(f"t{i},{i / 3}\n" for i in range(12)) + "x,inf\n", "line 14: the label is 'inf'"),
    "huge label": (HEAD + "x,1e999\n", "line 2: the label is beyond"),
    "two kinds": (HEAD + GOOD + "x,3\n", "line 14: the label 3.0 of concept 'bad' among names"),
    "ragged": (HEAD + GOOD + "a,b,c\n", "line 14: 3 cells where the header has 2"),
    "short": (HEAD + GOOD + "a\n", "line 14: 1 cells where the header has 2"),
    "open quote": (HEAD + GOOD + '"a,b\nc,d\n', "line 14: a quote opens here"),
    "junk after quote": (HEAD + GOOD + '"a"b,c\n', "line 14: broken quoting"),
    "few rows": (HEAD + GOOD + "x,c\n", "class 'c' of concept 'bad' has 1 rows; 5 folds need at least 5"),
    "few graded": (HEAD + "x,0.5\ny,0.7\n", "graded concept 'bad' has 2 rows"),
    "huge cell": (HEAD + GOOD + "x" * 1_000_001 + ",a\n", "longer than 1,000,000"),
    "start only": ("text,label,start\nx,1,0\n", "'start' and 'end' belong together"),
    "span outside": (
        "text,label,start,end\nabc,1,1,4\n" + "abc,0,0,1\n" * 9,
        "start 1 and end 4 do not lie in the text",
    ),
    "span empty": ("text,label,start,end\nabc,1,1,1\n" + "abc,0,0,1\n" * 9, "need 0 <= start < end"),
    "span words": ("text,label,start,end\nabc,1,one,2\n" + "abc,0,0,1\n" * 9, "line 2: 'start' is 'one'"),
    "span half": ("text,label,start,end\nabc,1,,2\n" + "abc,0,0,1\n" * 9, "'start' is None"),
    "span spaces": ("text,label,start,end\na    b,1,1,3\n" + "abc,0,0,1\n" * 9, "are all spaces"),
    "half groups": ("text,label,group\nabc,1,\n" + "abc,0,2\n" * 9, "line 2: the group is None"),
    "few groups": (
        "text,label,group\n" + "".join(f"t{i},{i % 2},{i % 3}\n" for i in range(20)),
        "class '0' of concept 'bad' lies in 3 groups",
    ),
    "empty concept": ("text,label,concept\nabc,1,\n", "line 2: the concept is None"),
    "words of graded": (
        "text,label,words\n" + "".join(f"t{i},{i / 3},w\n" for i in range(12)),
        "words belong to classes, and concept 'bad' is graded",
    ),
    "words of one class": (
        "text,label,words\n" + "".join(f"t{i},{i % 2},{'w' if i % 2 else ''}\n" for i in range(12)),
        "class '0' of concept 'bad' has no words",
    ),
    "shared words": (
        "text,label,words\n" + "".join(f"t{i},{i % 2},w\n" for i in range(12)),
        "line 3: the word 'w' stands for two classes",
    ),
}


def said_about(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_concepts(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_csv_is_one_line(tmp_path: Path, case: str) -> None:
    content, expected = BAD_CSV[case]
    path = tmp_path / "bad.csv"
    path.write_text(content, encoding="utf-8")
    assert expected in said_about(path)


BAD_BYTES = {
    "latin-1": (HEAD.encode() + GOOD.encode() + "café,a\n".encode("latin-1"), "line 14: byte 4 (0xe9) is not UTF-8"),
    "mixed": ("text,label\ncafé,a\n".encode() + "café,b\n".encode("latin-1"), "line 3: byte 4 (0xe9)"),
    "utf-16": ((HEAD + GOOD).encode("utf-16"), "is UTF-16"),
    "utf-16 bare": ((HEAD + GOOD).encode("utf-16-le"), "line 1: byte 2 is NUL"),
    "nul": (b"text,label\na\0b,c\n", "line 2: byte 2 is NUL"),
    "long line": (HEAD.encode() + b"[" * 9_000_000, "line 2: is longer than"),
    "old mac": (b"text,label\rx,1\ry,0\r", "carriage returns"),
    "empty": (b"", "is empty"),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_bytes_are_named_by_line_and_byte(tmp_path: Path, case: str) -> None:
    content, expected = BAD_BYTES[case]
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert expected in said_about(path)


BAD_JSON = {
    "broken": ('{"text": "a", "label": 1}\n{"text": \n', "line 2: broken JSON at column"),
    "list": ("[1, 2]\n", "line 1: holds list, not an object"),
    "twice": ('{"text": "a", "text": "b", "label": 1}\n', "line 1: a key appears twice"),
    "nan": ('{"text": "a", "label": NaN}\n', "line 1: the label is NaN"),
    "null": ('{"text": "a", "label": null}\n', "line 1: the label is empty"),
    "list label": ('{"text": "a", "label": [1]}\n', "neither a class name nor a number"),
    "text number": ('{"text": 3, "label": 1}\n', "the text is 3, not a string"),
    "later without": ('{"text": "a", "label": 1}\n{"text": "b"}\n', "line 2: the label is empty"),
    "surrogate": ('{"text": "a\\ud800", "label": 1}\n', "surrogate"),
    "nested": ("[" * 100_000 + "\n", "line 1: "),
    "digits": ('{"text": "a", "label": ' + "9" * 9000 + "}\n", "line 1: JSON that cannot be read"),
    "missing": ('{"statement": "a", "label": 1}\n', "no column 'text' (present: 'statement', 'label')"),
    "words object": (
        '{"text": "a", "label": 1, "words": {"x": 1}}\n' * 5 + '{"text": "b", "label": 0}\n' * 5,
        "repeated",
    ),
    "blank": ("\n \n", "is empty"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_bad_jsonl_is_one_line(tmp_path: Path, case: str) -> None:
    content, expected = BAD_JSON[case]
    path = tmp_path / "bad.jsonl"
    path.write_text(content, encoding="utf-8")
    assert expected in said_about(path)


def test_words_that_are_no_words(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": i % 2, "words": {"x": 1}} for i in range(12)]
    assert "words are {'x': 1}" in said_about(as_jsonl(tmp_path, rows))


def test_a_bad_parquet_is_one_line(tmp_path: Path) -> None:
    good = as_parquet(tmp_path, ROWS).read_bytes()
    path = tmp_path / "bad.parquet"
    for content in (b"PAR1", good[: len(good) // 2], b"PAR1" + bytes(100) + b"PAR1", good[4:]):
        path.write_bytes(content)
        assert "cannot be read as Parquet" in said_about(path)
    pq.write_table(pa.table({"statement": ["a"], "label": [1]}), path)
    assert "no column 'text'" in said_about(path)
    bad = pa.array([b"fine"] * 11 + [b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": bad, "label": [0, 1] * 6}), path)
    assert "row 12: byte 4 of 'text' is not UTF-8" in said_about(path)


def test_a_path_that_is_no_labelled_file(tmp_path: Path) -> None:
    assert "is a folder" in said_about(tmp_path)
    assert "no such file" in said_about(tmp_path / "absent.csv")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    assert "unknown kind of file '.txt'; use one of .csv, .parquet, .jsonl" in said_about(text)
    with pytest.raises(DataError, match="cannot be opened"):
        read_concepts(tmp_path / ("x" * 300 + ".csv"))
    with pytest.raises(DataError, match="not an ordinary file"):
        read_concepts("/dev/null")


def test_a_concept_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="differ in length"):
        Concept("c", ("a", "b"), np.zeros(3, dtype=np.int64), "binary", ("n", "y"))
    with pytest.raises(DataError, match="graded concept with the classes"):
        Concept("c", ("a",), np.zeros(1), "graded", ("n", "y"))
    concept = Concept("c", ("a", "b"), np.arange(2), "binary", ("n", "y"))
    with pytest.raises(DataError, match="names that differ"):
        ConceptSet("s", (concept, concept))
    with pytest.raises(DataError, match="has no concept 'd'; it has c"):
        ConceptSet("s", (concept,))["d"]
