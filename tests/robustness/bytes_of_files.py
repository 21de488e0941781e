"""Labelled files gone wrong in every way that files go wrong, from one seed."""

import datetime
import decimal
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("text", "label", "concept", "group", "start", "end", "words")
NASTY = (
    "", " ", "nan", "NaN", "inf", "-inf", "1e999", "-1", "0x10", "null", "None", "true", "1.5", "9" * 400, "\u202e", "é", "a\nb",
    'say "x"', "a,b", "\ufeff", "😀", "\t", "=1+1", "'", "x" * 3000, "\x1b[31m", "\r", "٣", "0.0000001", "1e-320",
)  # fmt: skip
NASTY_JSON = (
    None,
    True,
    -1,
    1.5,
    10**40,
    [],
    {},
    [1],
    ["a", "b"],
    {"a": 1},
    "",
    " ",
    "nan",
    "\ud800",
    "\0",
    "x" * 3000,
    [[["a"]]],
)


def rows(rng: random.Random) -> list[dict[str, object]]:
    """A good labelled file of 14 to 40 rows, with a random choice of the optional columns."""
    kept = [name for name in COLUMNS if name in ("text", "label") or rng.random() < 0.5]
    if ("start" in kept) != ("end" in kept):
        kept = [name for name in kept if name not in ("start", "end")]
    table = []
    for i in range(rng.randint(14, 40)):
        row = {"text": f"row {i} tells something", "label": "no" if i % 2 else "yes", "concept": "c", "group": i // 2}
        row |= {"start": 0, "end": 3, "words": "bad" if i % 2 else "good, fine"}
        table.append({name: row[name] for name in kept})
    return table


def as_csv(table: list[dict[str, object]]) -> bytes:
    import csv

    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return file.getvalue().encode("utf-8", "surrogatepass")


def as_jsonl(table: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def as_parquet(table: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), file, compression="snappy" if len(table) % 2 else "none")
    return file.getvalue()


def spoil_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, drop, repeat, insert, or change the encoding of a part."""
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice((1, 2, 10, 100)))
    way = rng.randrange(8)
    if way == 0:
        return bytes([*data[:at], data[at] ^ (1 << rng.randrange(8)), *data[at + 1 :]])
    if way == 1:
        return data[:at]
    if way == 2:
        return data[:at] + data[end:]
    if way == 3:
        return data[:end] + data[at:]
    if way == 4:
        return data[:at] + rng.randbytes(end - at) + data[end:]
    if way == 5:
        return (
            data[:at]
            + rng.choice((b"\0", b"\xff\xfe", b"\xe9", b'"', b"\r", b"\xc3\x28", b"[" * 2000, b",,,"))
            + data[at:]
        )
    if way == 6:
        return data[:at] + data[at:].decode("utf-8", "replace").encode(
            rng.choice(("utf-16", "utf-32", "cp500")), "replace"
        )
    return rng.choice((b"", rng.randbytes(200), b"\0" * 300, data[::-1], data[at:]))


def spoil_table(rng: random.Random, table: list[dict], nasty: tuple) -> list[dict]:
    """Nasty cells, lost or renamed columns, one class, too few rows, two kinds of label, repeated rows."""
    name, row = rng.choice(list(table[0])), rng.randrange(len(table))
    way = rng.randrange(8)
    if way <= 2:
        table[row][name] = rng.choice(nasty)
    elif way == 3:
        gone = rng.choice(("text", "label"))
        table = [{k: v for k, v in r.items() if k != gone} for r in table]
    elif way == 4:
        new = rng.choice((name.upper(), f" {name}", "statement", name + name, ""))
        table = [{(new if k == name else k): v for k, v in r.items()} for r in table]
    elif way == 5:
        table = [{**r, "label": rng.choice((table[0]["label"], "x"))} for r in table[: rng.randint(1, 9)]]
    elif way == 6:
        value = rng.choice(nasty)
        table = [{**r, name: value} for r in table]
    else:
        table = [table[rng.randrange(3)] for _ in table]
    return table


def odd_types(rng: random.Random, table: list[dict]) -> bytes:
    """A sound Parquet file whose columns have types that nobody expects."""
    values = (
        datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), decimal.Decimal("1.5"), b"bytes", {"a": 1}, [1, 2], None,
        float("nan"), float("inf"), 2**60, datetime.timedelta(1), datetime.time(1), True, "",
    )  # fmt: skip
    name, value = rng.choice(list(table[0])), rng.choice(values)
    table = [{**r, name: value} for r in table]
    return as_parquet(table)


def bad_file(rng: random.Random) -> tuple[str, bytes]:
    """(file extension, content)."""
    kind = rng.choice(("csv", "jsonl", "parquet"))
    table, way = rows(rng), rng.random()
    if kind == "csv":
        return kind, spoil_bytes(rng, as_csv(table)) if way < 0.5 else as_csv(spoil_table(rng, table, NASTY))
    if kind == "jsonl":
        return kind, spoil_bytes(rng, as_jsonl(table)) if way < 0.5 else as_jsonl(spoil_table(rng, table, NASTY_JSON))
    return kind, spoil_bytes(rng, as_parquet(table)) if way < 0.7 else odd_types(rng, table)


def giant_files() -> list[tuple[str, bytes]]:
    """A few that are large: one cell, one line, one nesting."""
    return [
        ("csv", b"text,label\n" + b"x" * 5_000_000 + b",1\n"),
        ("csv", b'text,label\n"' + b"x\n" * 3_000_000),
        ("csv", b"text," * 200_000 + b"label\n"),
        ("jsonl", b"[" * 6_000_000),
        ("jsonl", b'{"text": "' + b"x" * 5_000_000 + b'", "label": 1}\n'),
        ("jsonl", b'{"a":' * 300_000),
        ("jsonl", b'{"text": "a", "label": ' + b"1" * 3_000_000 + b"}\n"),
        ("parquet", b"PAR1" + b"\xff" * 3_000_000 + b"PAR1"),
    ]
