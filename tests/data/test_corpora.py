"""Streaming corpora: the same documents from every format, faults that name their place, and memory that does not grow."""

import csv
import gzip
import json
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conceptlab.data.corpora import csv_corpus, fingerprint, record, source_file
from conceptlab.data.corpus import Document
from conceptlab.data.open_corpus import open_corpus
from conceptlab.errors import DataError
from conceptlab.store import Store

TEXTS = ['plain, with "quotes" and a comma', "two words", "grüße, 概念 😀", " spaces around ", "x" * 300, '5" disk'] * 3
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


def as_parquet(path: Path, texts: list[str]) -> Path:
    path = path.with_suffix(".parquet")
    pq.write_table(pa.table({"text": texts, "id": range(len(texts))}), path, row_group_size=4)
    return path


def as_jsonl(path: Path, texts: list[str]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"text": t, "id": i}) + "\n" for i, t in enumerate(texts)), encoding="utf-8")
    return path


def as_csv(path: Path, texts: list[str]) -> Path:
    path = path.with_suffix(".csv")
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *[[i, t] for i, t in enumerate(texts)]])
    return path


def as_txt(path: Path, texts: list[str]) -> Path:
    path = path.with_suffix(".txt")
    path.write_text("\n".join(texts), encoding="utf-8", newline="")
    return path


def zipped(write: Callable[[Path, list[str]], Path]) -> Callable[[Path, list[str]], Path]:
    def written(path: Path, texts: list[str]) -> Path:
        plain = write(path, texts)
        packed = plain.with_name(plain.name + ".gz")
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
        return packed

    return written


WRITERS = {
    "parquet": as_parquet,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "txt": as_txt,
    "jsonl.gz": zipped(as_jsonl),
    "csv.gz": zipped(as_csv),
    "txt.gz": zipped(as_txt),
}


def texts_of(found: Iterator[Document]) -> list[str]:
    return [document.text for document in found]


def faults(path: Path) -> list[tuple[str, str | None]]:
    return [(d.place, d.fault) for d in open_corpus(path).documents()]


# -- the same documents, from everywhere ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_documents_and_any_start_is_their_tail(tmp_path: Path, kind: str) -> None:
    corpus = open_corpus(WRITERS[kind](tmp_path / "a", TEXTS))
    found = list(corpus.documents())
    assert [d.text for d in found] == TEXTS
    assert [d.index for d in found] == list(range(len(TEXTS)))
    assert not any(d.fault for d in found)
    for start in range(len(TEXTS) + 3):
        assert list(corpus.documents(start)) == found[start:]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_ids_and_columns_are_read(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / "a", ["one", "two"])
    assert [d.id for d in open_corpus(path, id_column="id").documents()] == ["0", "1"]
    assert [d.id for d in open_corpus(path).documents()] == [None, None]
    with pytest.raises(DataError, match=r"no column 'body' \(present: '(text', 'id|id', 'text)'\)"):
        open_corpus(path, column="body")
    with pytest.raises(DataError, match="no column 'key'"):
        open_corpus(path, id_column="key")


@pytest.mark.parametrize("kind", WRITERS)
def test_folders_and_globs_are_one_corpus_in_sorted_order(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    for name, texts in {"b": TEXTS[7:], "a": TEXTS[:5], "in/c": TEXTS[5:7]}.items():
        WRITERS[kind](tmp_path / name, texts)
    (tmp_path / "README.md").write_text("not read")
    (tmp_path / "_SUCCESS.txt").write_text("not read")
    expected = TEXTS[:5] + TEXTS[7:] + TEXTS[5:7]
    glob = open_corpus(f"{tmp_path}/[ab].{kind}")
    assert texts_of(glob.documents()) == TEXTS[:5] + TEXTS[7:]
    assert (
        next(glob.documents(6)).place
        == f"b.{kind}, {'row' if kind == 'parquet' else 'line'} {3 if 'csv' in kind else 2}"
    )
    if kind.startswith("txt"):
        return
    folder = open_corpus(tmp_path)
    found = list(folder.documents())
    assert [d.text for d in found] == expected
    for start in range(len(expected) + 1):
        assert list(folder.documents(start)) == found[start:]


def test_a_folder_of_texts_gives_a_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, content in {
        "b.txt": b"second\nline",
        "a.txt": b"\xef\xbb\xbffirst",
        "in/c.txt": b"\xff",
        "d.txt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
    found = list(open_corpus(tmp_path).documents())
    assert [(d.text, d.place) for d in found] == [
        ("first", "a.txt"), ("second\nline", "b.txt"), ("", "d.txt"), ("", "in/c.txt")]  # fmt: skip
    assert [d.id for d in found][:2] == ["a.txt", "b.txt"]
    assert found[3].fault is not None and "not UTF-8" in found[3].fault
    assert list(open_corpus(tmp_path).documents(1)) == found[1:]


def test_fsspec_urls_are_read(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("x/a.jsonl", "x/b.jsonl"):
        memory.pipe_file(f"/{name}", as_jsonl(tmp_path / "a", [name, "two"]).read_bytes())
    memory.pipe_file("/x.parquet", as_parquet(tmp_path / "a", TEXTS).read_bytes())
    assert texts_of(open_corpus("memory://x/a.jsonl").documents()) == ["x/a.jsonl", "two"]
    for many in ("memory://x", "memory://x/*.jsonl"):
        assert texts_of(open_corpus(many).documents(1)) == ["two", "x/b.jsonl", "two"]
    assert texts_of(open_corpus("memory://x.parquet").documents(9)) == TEXTS[9:]
    assert texts_of(open_corpus(f"file://{tmp_path}/a.parquet").documents()) == TEXTS
    with pytest.raises(DataError, match="no such file"):
        open_corpus("memory://y.jsonl")
    with pytest.raises(DataError, match="nosuch"):
        open_corpus("nosuch://y.jsonl")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(ANY_TEXT, min_size=1, max_size=12),
    start=st.integers(0, 12),
    kind=st.sampled_from(["parquet", "jsonl", "csv"]),
)
def test_whatever_is_written_is_read(tmp_path: Path, texts: list[str], start: int, kind: str) -> None:
    corpus = open_corpus(WRITERS[kind](tmp_path / "a", texts))
    assert texts_of(corpus.documents(start)) == texts[start:]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.lists(st.text('a",\n\r', max_size=6), min_size=2, max_size=2), min_size=1, max_size=6),
    chunk=st.integers(1, 9),
)
def test_rows_of_csv_are_cut_where_the_standard_library_cuts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: list[list[str]], chunk: int
) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "other"], *cells])
    with path.open(newline="") as file:
        expected = [row[0] for row in list(csv.reader(file, strict=True))[1:]]
    with monkeypatch.context() as patch:
        patch.setattr(source_file, "CHUNK", chunk)
        assert texts_of(open_corpus(path).documents()) == expected


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_lines_do_not_depend_on_how_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n\nfour\n")
    monkeypatch.setattr(source_file, "CHUNK", max(3, chunk))
    assert texts_of(open_corpus(tmp_path / "a.txt").documents()) == ["one", "", "", "four"]


# -- faults ------------------------------------------------------------------------------------------------------------
def test_faults_of_jsonl_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "good"}', b"", b'{"text": null}', b'{"other": 1}', b'{"text": 5}', b'{"text": "\xff"}', b'{"text": ',
             b'{"text": "\\ud800"}', b'{"text": "a\\u0000"}', b"[1]", b"[" * 100_000, b'{"text": ' + b"1" * 5000 + b"}",
             b'{"text": "a\0"}', b'{"text": "good too"}']  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    found = faults(path)
    expected = {1: None, 3: "missing", 4: "missing", 5: "is 5, not a string", 6: r"0xff\) is not UTF-8", 7: "broken JSON",
                8: "half a surrogate", 9: "character 2 is NUL", 10: "not a JSON object", 11: "nested", 12: "digit", 13: "NUL",
                14: None}  # fmt: skip
    assert [place for place, _ in found] == [f"line {n}" for n in expected]
    for (_, fault), what in zip(found, expected.values(), strict=True):
        assert (fault is None) if what is None else (fault is not None and re.search(what, fault))


def test_faults_of_csv_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'text,n\ngood,1\n\n"two\nlines",2\nb\xffd,3\nshort\n"a"b,4\nnul\0,5\nbare\rreturn,6\ngood,7\n"open,8\nrest,9\n'
    )
    found = faults(path)
    assert [place for place, _ in found] == [
        "line 2",
        "line 4",
        "line 6",
        "line 7",
        "line 8",
        "line 9",
        "line 10",
        "line 11",
        "line 12",
    ]
    for (_, fault), what in zip(
        found,
        [None, None, "0xff", "1 cells where the header has 2", "quoting", "NUL", "quoting", None, "quoting"],
        strict=True,
    ):
        assert (fault is None) if what is None else (fault is not None and what in fault)
    assert texts_of(open_corpus(path).documents(1))[0] == "two\nlines"


def test_faults_of_parquet_name_the_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 4, [None, *pa.array([b"ok", b"\xff\xfe", b"a\0", b"end"]).buffers()[1:]])
    pq.write_table(pa.table({"text": pa.concat_arrays([bad, pa.array([None], pa.string())])}), tmp_path / "a.parquet")
    found = faults(tmp_path / "a.parquet")
    assert [place for place, _ in found] == [f"row {n}" for n in range(1, 6)]
    assert [fault for _, fault in found] == [
        None, "byte 1 (0xff) is not UTF-8", "character 2 is NUL", None, "the text is missing"]  # fmt: skip


def test_other_string_types_of_parquet_are_text(tmp_path: Path) -> None:
    for kind in (pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()):
        pq.write_table(pa.table({"text": pa.array(["a", "b", "a"]).cast(kind)}), tmp_path / "a.parquet")
        assert texts_of(open_corpus(tmp_path / "a.parquet").documents()) == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.txt", b"", "is empty"),
        ("a.csv", b"text,label\n", "is empty"),
        ("a.csv", b"", "no column 'text'"),
        ("a.csv", b"text,text\na,b\n", "appears 2 times"),
        ("a.csv", b'"text\na,b\n', "header line"),
        ("a.parquet", b"PAR1 nonsense", "cannot be read"),
        ("a.jsonl.gz", b"no gzip", "is no whole gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9999)[:-20], "is no whole gzip file"),
        ("a.jsonl", "\ufeffa".encode("utf-16"), "is UTF-16"),
        ("a.xlsx", b"x", r"unknown kind of file '.xlsx'; use one of .parquet, .jsonl"),
        ("a.parquet.gz", b"x", "unknown kind"),
        ("a", b"x", "unknown kind"),
        ("a.jsonl", b'{"body": "a"}\n', "no column 'text'"),
    ],
)
def test_what_cannot_be_a_corpus_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(open_corpus(tmp_path / name).documents())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_what_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    for source, message in {
        str(tmp_path / "no.jsonl"): "no such file",
        str(tmp_path): "holds no",
        f"{tmp_path}/*.csv": "no file matches",
        "a\0b": "NUL",
        "x" * 5000: "no such file|cannot be looked up",
        "/dev/null": "not an ordinary file",
    }.items():
        with pytest.raises(DataError, match=message):
            open_corpus(source)
    as_jsonl(tmp_path / "a", ["a"])
    as_csv(tmp_path / "a", ["a"])
    with pytest.raises(DataError, match=r"holds \.csv and \.jsonl files"):
        open_corpus(tmp_path)
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(DataError, match="holds int64, not strings"):
        open_corpus(tmp_path / "n.parquet")


# -- size --------------------------------------------------------------------------------------------------------------
@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    for module in (record, source_file, csv_corpus, sys.modules["conceptlab.data.corpora.parquet_corpus"]):
        monkeypatch.setattr(module, "LONGEST", 1 << 20)
    monkeypatch.setattr(sys.modules["conceptlab.data.corpora.text_corpus"], "LONGEST", 1 << 20)
    return 1 << 20


@pytest.mark.parametrize("kind", WRITERS)
def test_a_huge_text_is_a_fault_and_the_rest_is_read(tmp_path: Path, small_limit: int, kind: str) -> None:
    huge = 'a, "b" ' * (small_limit // 6)
    corpus = open_corpus(WRITERS[kind](tmp_path / "a", ["before", huge, "after"]))
    found = list(corpus.documents())
    assert [d.text for d in found] == ["before", "", "after"]
    assert found[1].fault is not None and "longer than" in found[1].fault
    assert list(corpus.documents(2)) == found[2:]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, small_limit: int, kind: str) -> None:
    start = {"jsonl": '{"text": "', "csv": 'text\n"', "txt": ""}[kind]
    (tmp_path / f"a.{kind}").write_text(start + "x" * (50 * small_limit))
    tracemalloc.start()
    (document,) = open_corpus(tmp_path / f"a.{kind}").documents()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert document.fault is not None and "longer than" in document.fault
    assert peak < 4 * small_limit


RSS = """
import resource, sys
from conceptlab.data.open_corpus import open_corpus
import pyarrow.parquet
corpus = open_corpus(sys.argv[1])
next(corpus.documents())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n = sum(1 for _ in corpus.documents())
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "txt.gz"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, kind: str) -> None:
    texts = [f"{i} " + "some words of a text " * 24 for i in range(100_000)]  # 50 MB
    path = WRITERS[kind](tmp_path / "a", texts) if kind != "parquet" else tmp_path / "a.parquet"
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts}), path, row_group_size=50_000, compression=None, use_dictionary=False)
    done = subprocess.run([sys.executable, "-c", RSS, str(path)], capture_output=True, text=True, check=True)
    n, grown = map(int, done.stdout.split())
    assert n == 100_000
    assert grown < 24 << 10  # KiB


def test_skipped_row_groups_of_parquet_are_not_read(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "a", TEXTS)
    content = bytearray(path.read_bytes())
    with pq.ParquetFile(path) as table:
        column = table.metadata.row_group(0).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 20] = b"\xff" * 20  # the first row group is destroyed
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="cannot be read"):
        open_corpus(path)
    from conceptlab.data.corpora.files_corpus import KINDS, FilesCorpus
    from conceptlab.data.corpora.find_sources import find_sources

    corpus = FilesCorpus("a", find_sources(str(path))[1], KINDS[".parquet"], record.Columns())
    assert texts_of(corpus.documents(5)) == TEXTS[5:]


# -- fingerprints ------------------------------------------------------------------------------------------------------
def test_a_fingerprint_tells_content_columns_and_names_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_jsonl(tmp_path / "a", ["one", "two"])
    first = open_corpus(path).fingerprint()
    assert open_corpus(str(path)).fingerprint() == first
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert open_corpus(as_jsonl(other / "a", ["one", "two"])).fingerprint() == first
    changed = {
        open_corpus(path, column="id").fingerprint(),
        open_corpus(path, id_column="id").fingerprint(),
        open_corpus(as_jsonl(other / "b", ["one", "two"])).fingerprint(),
        open_corpus(as_jsonl(other / "a", ["one", "twO"])).fingerprint(),
    }
    assert len(changed | {first}) == 5


def test_of_a_large_corpus_both_ends_and_the_size_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE", 100)
    monkeypatch.setattr(fingerprint, "END", 8)
    path = tmp_path / "a.txt"
    found = []
    for content in ("a" * 200, "b" + "a" * 199, "a" * 199 + "b", "a" * 201, "a" * 100 + "b" + "a" * 99):
        path.write_text(content)
        found.append(open_corpus(path).fingerprint())
    assert len(set(found[:4])) == 4
    assert found[4] == found[0]  # as the docstring says


def test_a_checksum_of_the_file_system_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/f.txt", b"one\n")
    corpus = open_corpus("memory://f.txt")
    first = corpus.fingerprint()
    info = {"name": "/f.txt", "size": 4, "type": "file", "ETag": '"abc"'}
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: info)
    assert corpus.fingerprint() != first
    monkeypatch.setattr(type(memory), "open", None)
    assert corpus.fingerprint() == corpus.fingerprint()


# -- datasets ----------------------------------------------------------------------------------------------------------
@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="datasets is not installed")


def test_data_sets_are_corpora(tmp_path: Path, datasets) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})
    rows.save_to_disk(tmp_path / "saved")
    for source in (rows, rows.to_iterable_dataset(), tmp_path / "saved", _hub_like(tmp_path)):
        corpus = open_corpus(source, id_column="id")
        found = list(corpus.documents())
        assert [d.text for d in found] == TEXTS and found[3].id == "3" and found[3].place == "row 4"
        assert list(corpus.documents(11)) == found[11:]
        assert len({corpus.fingerprint(), open_corpus(source, id_column="id").fingerprint()}) == 1
        assert corpus.fingerprint() != open_corpus(source).fingerprint()
        with pytest.raises(DataError, match="no column 'body'"):
            open_corpus(source, column="body")


def _hub_like(folder: Path) -> str:
    (folder / "set").mkdir()
    as_jsonl(folder / "set" / "train", TEXTS)
    return f"datasets:{folder}/set"


def test_data_sets_that_cannot_be_opened(tmp_path: Path, datasets, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _hub_like(tmp_path)
    assert len(list(open_corpus(f"{source}:default:train").documents())) == len(TEXTS)
    rows = datasets.Dataset.from_dict({"text": ["a", None]})
    assert [d.fault for d in open_corpus(rows).documents()] == [None, "the text is missing"]
    datasets.DatasetDict({"train": rows}).save_to_disk(tmp_path / "many")
    for wrong, message in {
        f"{source}:nope": "check name, config and split",
        "datasets:": "not of the form",
        "datasets:a:b:c:d": "not of the form",
        str(tmp_path / "many"): "several splits",
    }.items():
        with pytest.raises(DataError, match=message):
            open_corpus(wrong)
    with pytest.raises(DataError, match="is empty"):
        open_corpus(datasets.Dataset.from_dict({"text": []}))
    for wrong in (datasets.DatasetDict({"train": rows}), 5):
        with pytest.raises(DataError, match="is no corpus"):
            open_corpus(wrong)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'conceptlab\[datasets\]'"):
        open_corpus(source)


# -- an object store, and the planner ---------------------------------------------------------------------------------
def test_a_bucket_is_read_and_its_checksums_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("moto", reason="moto is not installed (pip install -e .[dev])")
    pytest.importorskip("s3fs", reason="s3fs is not installed (pip install conceptlab[s3])")
    from tests.reliability.object_server import ObjectServer

    with ObjectServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        url = server.bucket("corpora")
        files = {"a.jsonl": as_jsonl(tmp_path / "a", TEXTS[:5]), "b.jsonl": as_jsonl(tmp_path / "b", TEXTS[5:])}
        files |= {"c.parquet": as_parquet(tmp_path / "c", TEXTS)}
        for name, path in files.items():
            fsspec.filesystem("s3").pipe_file(f"{url}/{name}", path.read_bytes())
        for source in (f"{url}/*.jsonl", f"{url}/c.parquet"):
            corpus = open_corpus(source)
            assert texts_of(corpus.documents()) == TEXTS
            assert texts_of(corpus.documents(7)) == TEXTS[7:]
        assert texts_of(open_corpus(f"{url}/b.jsonl").documents()) == TEXTS[5:]
        first = open_corpus(f"{url}/a.jsonl").fingerprint()
        changed = as_jsonl(tmp_path / "a", ["o" + text[1:] for text in TEXTS[:5]])
        fsspec.filesystem("s3").pipe_file(f"{url}/a.jsonl", changed.read_bytes())
        assert open_corpus(f"{url}/a.jsonl").fingerprint() != first
        for wrong in (f"{url}/no.jsonl", "s3://no-such-bucket/a.jsonl"):
            with pytest.raises(DataError, match="no such file|cannot be looked up"):
                open_corpus(wrong)
        opened = open_corpus(f"{url}/b.jsonl")
        server.kill()
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(DataError, match=r"b\.jsonl: cannot be read") as caught:
            list(opened.documents())
        assert "\n" not in str(caught.value)


def test_a_planner_names_the_line_of_a_fault_or_leaves_it_out(tmp_path: Path) -> None:
    from tests.reliability.small import WISH, harvest

    good = [{"text": "one two three"}] * 9
    path = tmp_path / "a.jsonl"
    path.write_text(
        "\n".join([json.dumps(row) for row in good] + ['{"text": ', '{"text": "one two"}']), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"a\.jsonl, line 10: broken JSON"):
        harvest(tmp_path / "store", WISH, open_corpus(path))
    harvest(tmp_path / "skipped", replace(WISH, skip_bad=True), open_corpus(path))
    store = Store.open(tmp_path / "skipped")
    assert (store.plan.n_docs, store.plan.n_skipped) == (10, 1)
    assert store.document(10).text == "one two"
