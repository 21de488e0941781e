"""The plan of a harvest: the tokens of every shard, fixed before anything runs, so that a shard is the same whoever computes it.

tokens/<shard>-<hash12>.parquet   one row a token, in stored order: row, doc, position, token, start, end, kept
text/<shard>-<hash12>.parquet     the documents that begin in the shard: doc, id, text (unless the store keeps no text)
plan/<shard>.json                 while planning: the shard's files and where the next one begins; gone afterwards
plan-<hash12>.parquet             one row a shard: its files and counts
plan.json                         written last: the plan is complete
"""

import io
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
        raise ResultError(f"{place.url}/{entry['name']} is missing; `conceptlab store repair` makes it again")
    if len(content) != entry["size"] or record_of(content).sha256 != entry["sha256"]:
        raise ResultError(f"{place.url}/{entry['name']} is damaged; `conceptlab store repair` makes it again")
    # not pq.read_table: its threads are still there at the end of a process that holds torch, which then now and then aborts
    with pq.ParquetFile(io.BytesIO(content)) as file:
        return file.read(use_threads=False)


def tokens_table(tokens: ShardTokens) -> "pa.Table":
    """As an Arrow table, one row a token."""
    import pyarrow as pa

    return pa.table({name: getattr(tokens, name) for name in ShardTokens.__dataclass_fields__})


def read_tokens(place: Place, plan: Plan, shard: int) -> ShardTokens:
    """The tokens of one shard. Raises ResultError where its file is damaged."""
    table = read_table(place, entry_of(plan, shard, "tokens"))
    return ShardTokens(**{name: table.column(name).to_numpy() for name in ShardTokens.__dataclass_fields__})


def entry_of(plan: Plan, shard: int, kind: str) -> dict[str, Any]:
    """Name, size and sha256 of a shard's "tokens" or "text" file."""
    return {part: plan.index[f"{kind}_{part}"][shard] for part in ("name", "size", "sha256")}


def read_plan(place: Place) -> Plan | None:
    """The finished plan, None where there is none. Raises ResultError for a damaged one."""
    content = place.read(PLAN)
    if content is None:
        return None
    try:
        record = unseal(content)
        index = read_table(place, record["index"]).to_pydict()
        counts = {name: int(record[name]) for name in ("n_shards", "n_tokens", "n_kept", "n_docs", "n_skipped")}
        return Plan(record_id(record), str(record["manifest"]), **counts, index=index)
    except (Damaged, KeyError, TypeError, ValueError) as error:
        raise ResultError(
            f"{place.url}/{PLAN} is damaged ({error}); run the same `conceptlab harvest` command again"
        ) from error


def finish_plan(place: Place, manifest: str, pieces: Sequence[Mapping[str, Any]]) -> None:
    """Write the index and, last, plan.json."""
    import pyarrow as pa

    columns = ("n_rows", "n_tokens", "n_kept", "first_doc", "n_docs")
    table: dict[str, list[Any]] = {name: [piece[name] for piece in pieces] for name in columns}
    for kind in ("tokens", "text"):
        for part in ("name", "size", "sha256"):
            table[f"{kind}_{part}"] = [(piece[kind] or {}).get(part) for piece in pieces]
    index = write_table(place, pa.table(table), "plan")
    totals = {name: sum(piece[name] for piece in pieces) for name in ("n_tokens", "n_kept", "n_docs", "n_skipped")}
    record = {"manifest": manifest, "n_shards": len(pieces), **totals, "index": index}
    place.create(PLAN, seal(record))
