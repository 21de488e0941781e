"""The plan of a harvest: the tokens of every shard, fixed before anything runs, so that a shard is the same whoever computes it.

tokens/<shard>-<hash12>.parquet   one row a token, in stored order: row, doc, position, token, start, end, kept
text/<shard>-<hash12>.parquet     the documents that begin in the shard: doc, id, text (unless the store keeps no text)
plan/<shard>.json                 while planning: the shard's files and where the next one begins; gone afterwards
plan-<hash12>.parquet             one row a shard: its files and counts
plan.json                         written last: the plan is complete
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.errors import ResultError
from conceptlab.runs.blocks import record_of
from conceptlab.runs.place import Place, put
from conceptlab.runs.sealed import Damaged, record_id, seal, unseal
from conceptlab.store.rows import Row, kept_positions

if TYPE_CHECKING:
    import pyarrow as pa

PLAN = "plan.json"
ADVICE = "`conceptlab store repair` makes it again"
OWN = re.compile(  # names that a harvest gives; whatever else lies in the folder is the user's and is never deleted
    r"((acts|stats)/.+/\d{6,}-[0-9a-f]{12}\.safetensors|(tokens|text)/\d{6,}-[0-9a-f]{12}\.parquet|(commit|plan)/\d{6,}\.json"
    r"|plan-[0-9a-f]{12}\.parquet)"
)
COUNTS = ("n_rows", "n_tokens", "n_kept", "first_doc", "n_docs")  # columns of the table of shards


@dataclass(frozen=True)
class Plan:
    """A finished plan. `index` is a table with one row a shard: tokens, tokens_size, tokens_sha256 (and the same of text),
    n_rows, n_tokens, n_kept, first_doc, n_docs."""

    id: str
    manifest: str
    n_shards: int
    n_tokens: int
    n_kept: int
    n_docs: int
    n_skipped: int
    index: Mapping[str, Any]


@dataclass(frozen=True)
class ShardTokens:
    """The tokens of one shard in stored order, each an array [token]: `row`, `doc`, `position`, `token`, `start`, `end`, `kept`."""

    row: np.ndarray
    doc: np.ndarray
    position: np.ndarray
    token: np.ndarray
    start: np.ndarray
    end: np.ndarray
    kept: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row [row]."""
        return np.bincount(self.row)

    @property
    def ids(self) -> list[np.ndarray]:
        """Token ids of each row."""
        return np.split(self.token, np.cumsum(self.lengths)[:-1])


def shard_tokens(rows: Sequence[Row], positions: "str | Sequence[int]") -> ShardTokens:
    """The rows of a shard as one table; rows of like length become neighbours, so that little padding is computed."""
    ordered = sorted(rows, key=len)
    lengths = [len(row) for row in ordered]
    offsets = np.concatenate([row.offsets for row in ordered])
    return ShardTokens(
        np.repeat(np.arange(len(ordered), dtype=np.int32), lengths),
        np.concatenate([row.doc for row in ordered]),
        np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]),
        np.concatenate([row.ids for row in ordered]).astype(np.int32),
        offsets[:, 0].astype(np.int32),
        offsets[:, 1].astype(np.int32),
        np.concatenate([kept_positions(n, positions) for n in lengths]),
    )


def write_table(place: Place, table: "pa.Table", folder: str, shard: int | None = None) -> dict[str, Any]:
    """Write a table under its hashed name, with a checksum on every page; returns name, size and sha256."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True, store_schema=False)
    content = buffer.getvalue()
    record = record_of(content)
    name = (
        f"{folder}/{shard:06d}-{record.sha256[:12]}.parquet"
        if shard is not None
        else f"{folder}-{record.sha256[:12]}.parquet"
    )
    put(place, name, content)
    return {"name": name, "size": record.size, "sha256": record.sha256}


def read_table(place: Place, entry: Mapping[str, Any]) -> "pa.Table":
    """Read what `write_table` wrote. Raises ResultError where it is missing or any byte differs."""
    import pyarrow.parquet as pq

    content = place.read(entry["name"])
    if content is None:
        raise ResultError(f"{place.url}/{entry['name']} is missing; {ADVICE}")
    if len(content) != entry["size"] or record_of(content).sha256 != entry["sha256"]:
        raise ResultError(f"{place.url}/{entry['name']} is damaged; {ADVICE}")
    # not pq.read_table: its threads are still there at the end of a process that holds torch, which then now and then aborts
    with pq.ParquetFile(io.BytesIO(content)) as file:
        return file.read(use_threads=False)


def tokens_table(tokens: ShardTokens) -> "pa.Table":
    """As an Arrow table, one row a token."""
    import pyarrow as pa

    return pa.table({name: getattr(tokens, name) for name in ShardTokens.__dataclass_fields__})


def read_tokens(place: Place, plan: Plan, shard: int) -> ShardTokens:
    """The tokens of one shard. Raises ResultError where its file is damaged."""
    entry = entry_of(plan, shard, "tokens")
    table = read_table(place, entry)
    names = [name for name in ShardTokens.__dataclass_fields__ if name in table.column_names]
    found = {name: table.column(name).to_numpy() for name in names}
    whole = len(found) == len(ShardTokens.__dataclass_fields__) and all(
        values.dtype.kind == ("b" if name == "kept" else "i") for name, values in found.items()
    )
    if not whole or (len(found["row"]), found["kept"].sum()) != (
        plan.index["n_tokens"][shard],
        plan.index["n_kept"][shard],
    ):
        raise ResultError(f"{place.url}/{entry['name']} is no table of the shard's tokens; {ADVICE}")
    return ShardTokens(**found)


def entry_of(plan: Plan, shard: int, kind: str) -> dict[str, Any]:
    """Name, size and sha256 of a shard's "tokens" or "text" file."""
    return {part: plan.index[f"{kind}_{part}"][shard] for part in ("name", "size", "sha256")}


def own_names(place: Place, folder: str) -> list[str]:
    """The files of a folder that a harvest made."""
    return [name for name in place.names(folder) if OWN.fullmatch(name)]


def read_plan(place: Place) -> Plan | None:
    """The finished plan, None where there is none. Raises ResultError for a damaged one."""
    content = place.read(PLAN)
    if content is None:
        return None
    try:
        record = unseal(content)
        index = read_table(place, record["index"]).to_pydict()
        counts = {name: int(record[name]) for name in ("n_shards", "n_tokens", "n_kept", "n_docs", "n_skipped")}
        _check_index(index, counts)
        return Plan(record_id(record), str(record["manifest"]), **counts, index=index)
    except (Damaged, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ResultError(
            f"{place.url}/{PLAN} is damaged ({error}); run the same `conceptlab harvest` command again"
        ) from error


def _check_index(index: Mapping[str, Sequence[Any]], counts: Mapping[str, int]) -> None:
    """Raise Damaged where the table of shards does not have what `finish_plan` writes, or its sums are not the plan's."""
    texts = [("text_name", str | None), ("text_size", int | None), ("text_sha256", str | None)]
    numbers = [(name, int) for name in (*COUNTS, "tokens_size")]
    for name, kind in [*numbers, ("tokens_name", str), ("tokens_sha256", str), *texts]:
        values = index[name]
        if len(values) != counts["n_shards"] or not all(isinstance(value, kind) for value in values):
            raise Damaged(f"has no good column {name}")
        if kind is int and min(values, default=0) < 0:
            raise Damaged(f"has a negative {name}")
    if any(len({value is None for value in row}) > 1 for row in zip(*(index[name] for name, _ in texts), strict=True)):
        raise Damaged("names half a text")
    for name in ("n_tokens", "n_kept"):
        if sum(index[name]) != counts[name]:
            raise Damaged(f"does not add up to its {name}")


def finish_plan(place: Place, manifest: str, pieces: Sequence[Mapping[str, Any]]) -> None:
    """Write the index and, last, plan.json."""
    import pyarrow as pa

    table: dict[str, list[Any]] = {name: [piece[name] for piece in pieces] for name in COUNTS}
    for kind in ("tokens", "text"):
        for part in ("name", "size", "sha256"):
            table[f"{kind}_{part}"] = [(piece[kind] or {}).get(part) for piece in pieces]
    index = write_table(place, pa.table(table), "plan")
    totals = {name: sum(piece[name] for piece in pieces) for name in ("n_tokens", "n_kept", "n_docs", "n_skipped")}
    record = {"manifest": manifest, "n_shards": len(pieces), **totals, "index": index}
    place.create(PLAN, seal(record))
