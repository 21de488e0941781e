"""Bar 6: records that somebody made on purpose, with seals and hashes that fit. Whatever they say, a store opens or refuses in one
line, and nothing outside its folder is opened."""

import copy
import io
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conceptlab.errors import ConceptlabError
from conceptlab.runs.blocks import record_of
from conceptlab.runs.place import LocalPlace
from conceptlab.runs.sealed import record_id, seal, unseal
from conceptlab.store.repairing import needed
from conceptlab.store.verifying import verify
from tests.reliability.flips import read_everything

LEAVING = "leaving"  # the name of what no record may reach
NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 2**31, 2**62, 10**400, 0.5, 1e308, "", " ", "x", "0" * 64, "../" + LEAVING,
    "a/../../" + LEAVING,
    "./../" + LEAVING, "acts/../../" + LEAVING, LEAVING + "\0", "acts\\..\\" + LEAVING, "link", "link/" + LEAVING, "nan",
    "float64",
    "eval", "\ud800", "é" * 3000, [], {}, [[]], [None], [-1], [2**62], [2**40, 2**40], ["../" + LEAVING], {"a": 1}, {"name": 1},
)  # fmt: skip
LIMIT = 20.0  # seconds for one store


@dataclass
class Hostile:
    """Records changed, by kind, and how many of the stores still opened and verified."""

    done: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} of {kind}" for kind, count in self.done.items())
        return (
            f"{self.done.total():,} hostile records ({kinds}): {self.refused:,} refused in one line, the others harmless; "
            "nothing outside the store was opened"
        )


def attack(store: Path, scratch: Path, count: int, seed: int = 0) -> Hostile:
    """Change records of copies of a store `count` times."""
    rng, tally = random.Random(seed), Hostile()
    (scratch / LEAVING).parent.mkdir(parents=True, exist_ok=True)
    (scratch / LEAVING).write_text("nobody reads this")
    kinds = (
        "commit",
        "plan",
        "plan table",
        "tokens table",
        "text table",
        "manifest",
        "data header",
        "statistics header",
    )
    with no_opening_of(LEAVING):
        for number in range(count):
            kind = kinds[number % len(kinds)]
            folder = scratch / "store"
            shutil.copytree(store, folder)
            (folder / "link").symlink_to(scratch)
            what = _change(LocalPlace(folder), kind, rng)
            began = time.perf_counter()
            tally.refused += _refused(folder, f"{seed}/{number} {kind}: {what}")
            assert time.perf_counter() - began < LIMIT, what
            tally.done[kind] += 1
            shutil.rmtree(folder)
    return tally


def _refused(folder: Path, what: str) -> bool:
    """Whether a reading is refused. Raises AssertionError where it fails in another way."""
    refused = False
    for use in (lambda f: read_everything(f, statistics=True), lambda f: needed(verify(f))):
        try:
            use(folder)
        except ConceptlabError as error:
            refused = True
            assert "\n" not in str(error), what
        except AssertionError:
            refused = True  # fewer tokens than the plan says: seen by whoever counts
        except Exception as error:
            raise AssertionError(f"{what} raises {type(error).__name__}: {error}") from error
    return refused


def _change(place: LocalPlace, kind: str, rng: random.Random) -> str:
    """Change one record, and everything that holds its hash."""
    if kind == "manifest":
        return _rewrite(place, "manifest.json", rng)
    if kind == "commit":
        return _rewrite(place, "commit/000001.json", rng)
    if kind.endswith("header"):
        return _header(place, {"data header": "acts/", "statistics header": "stats/"}[kind], rng)
    plan = unseal(place.read("plan.json") or b"")
    old = record_id(plan)
    if kind == "plan":
        what = _twist(plan, rng)
    else:
        table = pq.read_table(io.BytesIO(place.read(plan["index"]["name"]) or b"")).to_pydict()
        if kind != "plan table":
            which = kind.split()[0]
            what, entry = _table(place, table[f"{which}_name"][1], f"{which}/000001", rng)
            for part in entry:
                table[f"{which}_{part}"][1] = entry[part]
            what, plan["index"] = what, _written(place, pa.table(table), "plan")
        else:
            what, plan["index"] = _table(place, plan["index"]["name"], "plan", rng)
    _replace(place, "plan.json", seal(plan))
    for name in place.names("commit"):
        commit = unseal(place.read(name) or b"")
        if commit["plan"] == old:
            _replace(place, name, seal({**commit, "plan": record_id(plan)}))
    return what


def _rewrite(place: LocalPlace, name: str, rng: random.Random) -> str:
    record = unseal(place.read(name) or b"")
    what = _twist(record, rng)
    _replace(place, name, seal(record))
    return what


def _header(place: LocalPlace, folder: str, rng: random.Random) -> str:
    """Change the header of a file of one shard, and the commit that holds its hash."""
    commit = unseal(place.read("commit/000001.json") or b"")
    name = rng.choice([name for name in commit["files"] if name.startswith(folder)])
    content = place.read(name) or b""
    length = int.from_bytes(content[:8], "little")
    record = json.loads(content[8 : 8 + length])
    what = _twist(record, rng)
    told = rng.choice((json.dumps(record).encode("utf-8", "replace"), b"[" * rng.choice((10, 3000, 200_000)), b"\xff"))
    if len(told) < length:  # as a header is filled up
        told = told.ljust(length)
    size = rng.choice((len(told),) * 6 + (0, 7, 2**40, 2**63))
    content = size.to_bytes(8, "little") + told + content[8 + length :]
    _replace(place, name, content)
    commit["files"][name] = record_of(content).entry()
    _replace(place, "commit/000001.json", seal(commit))
    return f"{what} in the header of {name}"


def _replace(place: LocalPlace, name: str, content: bytes) -> None:
    (place.folder / name).write_bytes(content)


def _twist(record: dict[str, Any], rng: random.Random) -> str:
    """Change one value, key or entry somewhere in a record."""
    where: list[tuple[Any, Any]] = list(_entries(record))
    holder, key = rng.choice(where)
    way = rng.choice(("value", "value", "value", "key", "gone", "twice"))
    nasty = copy.deepcopy(rng.choice(NASTY))
    if way == "gone":
        del holder[key]
    elif way == "key" and isinstance(holder, dict):
        holder[nasty if isinstance(nasty, str) else str(nasty)] = holder.pop(key)
    elif way == "twice" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    else:
        holder[key] = nasty
    return f"{way} of {key!r} with {str(nasty)[:60]!r}"


def _entries(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    for key, inner in pairs:
        yield value, key
        yield from _entries(inner)


def _table(place: LocalPlace, name: str, folder: str, rng: random.Random) -> tuple[str, dict[str, Any]]:
    """Change a column of a table; its new entry."""
    columns = pq.read_table(io.BytesIO(place.read(name) or b"")).to_pydict()
    column = rng.choice(list(columns))
    way = rng.choice(("gone", "value", "value", "type", "empty", "rows"))
    nasty = rng.choice([v for v in NASTY if not isinstance(v, int) or -(2**63) <= v < 2**63])
    values = columns[column]
    if way == "gone":
        del columns[column]
    elif way == "empty":
        columns = {name: [] for name in columns}
    elif way == "rows":
        columns = {name: values[: len(values) // 2] for name, values in columns.items()}
    elif way == "type":
        columns[column] = [str(value) for value in values]
    else:
        values[rng.randrange(len(values))] = nasty
    try:
        table = pa.table(columns)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError, OverflowError):
        columns[column] = [None for _ in values]
        table = pa.table(columns)
    return f"{way} of column {column!r} with {str(nasty)[:60]!r}", _written(place, table, folder)


def _written(place: LocalPlace, table: pa.Table, folder: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    content = buffer.getvalue()
    digest = record_of(content).sha256
    name = f"{folder}-{digest[:12]}.parquet"
    _replace(place, name, content)
    return {"name": name, "size": len(content), "sha256": digest}


_forbidden: set[str] = set()
_hooked = False


@contextmanager
def no_opening_of(name: str) -> Iterator[None]:
    """Raise AssertionError in whoever opens, lists, removes or links a path that ends in `name`."""
    global _hooked

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _forbidden and event in (
            "open",
            "os.remove",
            "os.listdir",
            "os.scandir",
            "os.rename",
            "os.link",
            "os.truncate",
        ):
            paths = [os.fsdecode(a) for a in arguments[:2] if isinstance(a, str | bytes | os.PathLike)]
            assert not any(path.endswith(tuple(_forbidden)) for path in paths), f"{event} {paths}"

    if not _hooked:
        sys.addaudithook(hook)
        _hooked = True
    _forbidden.add(name)
    try:
        yield
    finally:
        _forbidden.discard(name)
