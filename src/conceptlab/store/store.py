"""Store: the activations of a corpus on disk or in an object store, read by token, document, site and layer."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, ResultError
from conceptlab.numerics.streaming import Statistics
from conceptlab.runs.blocks import FileRecord
from conceptlab.runs.ledger import Commit, Ledger
from conceptlab.runs.place import Place, place_of
from conceptlab.runs.sealed import Damaged
from conceptlab.store.manifest import Manifest, SiteSpec, read_manifest
from conceptlab.store.mapped import ADVICE, ShardFile
from conceptlab.store.part import Part
from conceptlab.store.plan import Plan, ShardTokens, entry_of, read_plan, read_table, read_tokens
from conceptlab.store.statistics import read_statistics
from conceptlab.store.unit_statistics import Exemplar, check_unit, exemplars

COMMITS = 1024  # commits that are kept in memory


@dataclass(frozen=True)
class DocumentView:
    """One document: its `text` (None where the store keeps none) and `id`, the numbers `index` of its kept tokens in stored order,
    and of each token its id, its position in its row and the characters it came from."""

    doc: int
    id: str | None
    text: str | None
    index: np.ndarray
    token: np.ndarray
    position: np.ndarray
    start: np.ndarray
    end: np.ndarray


class Store:
    """A store opened for reading with `Store.open`; finished shards are visible, also while others are still computed.

    `store[site, layer]` is a `Part`: an array over all kept tokens that reads, and checks, only what is touched.
    """

    def __init__(self, place: Place, manifest: Manifest, plan: Plan, *, verify: bool = True) -> None:
        self.place, self.manifest, self.plan, self.verify = place, manifest, plan, verify
        self.ledger = Ledger(place, plan.id, plan.n_shards)
        self._commits: dict[int, Commit] = {}
        self._tokens: dict[int, ShardTokens] = {}

    @classmethod
    def open(cls, url: str | Path, *, verify: bool = True) -> "Store":
        """Open a store. Raises ResultError where there is none, its plan is unfinished, or a record is damaged or newer."""
        place = place_of(url)
        manifest = read_manifest(place)
        if manifest is None:
            raise ResultError(f"{url} holds no store (no manifest.json); make one with `conceptlab harvest`")
        plan = read_plan(place)
        if plan is None:
            raise ResultError(f"{url} has no finished plan yet; run the same `conceptlab harvest` command again")
        if plan.manifest != manifest.id:
            raise ResultError(f"{url} holds the manifest of one store and the plan of another; make it anew")
        return cls(place, manifest, plan, verify=verify)

    # -- what there is ----------------------------------------------------------------------------------------------
    @property
    def sites(self) -> tuple[SiteSpec, ...]:
        """The stored sites with their layers and shapes."""
        return self.manifest.sites

    @cached_property
    def shards(self) -> tuple[int, ...]:
        """The finished shards, as of the first time this is asked."""
        return tuple(self.ledger.finished())

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of the first kept token of each finished shard, and the total at the end."""
        kept = [self.plan.index["n_kept"][shard] for shard in self.shards]
        return np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)

    def __len__(self) -> int:
        """Kept tokens of the finished shards."""
        return int(self.starts[-1])

    @property
    def complete(self) -> bool:
        """Whether every shard of the plan is finished."""
        return len(self.shards) == self.plan.n_shards

    def commit(self, shard: int) -> Commit:
        """The commit of a finished shard. Raises ResultError where it is damaged."""
        if shard not in self._commits:
            try:
                found = self.ledger.commit_of(shard)
            except Damaged as error:
                raise ResultError(f"{self.place.url}: the commit of shard {shard} {error}; {ADVICE}") from error
            if found is None:
                raise InputError(f"shard {shard} is not finished; run the same `conceptlab harvest` command again")
            if len(self._commits) >= COMMITS:
                self._commits.clear()
            self._commits[shard] = found
        return self._commits[shard]

    def nonfinite(self) -> dict[str, dict[str, int]]:
        """NaN and infinite values of each part that has any, over the finished shards."""
        found: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            try:
                for part, counts in self.commit(shard).record["nonfinite"].items():
                    total = found.setdefault(part, {"nan": 0, "inf": 0})
                    for kind in total:
                        total[kind] += int(counts[kind])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ResultError(f"{self.place.url}: the commit of shard {shard} counts nothing; {ADVICE}") from error
        return found

    # -- values -----------------------------------------------------------------------------------------------------
    def __getitem__(self, key: "str | tuple[str, int]") -> Part:
        return self.part(key) if isinstance(key, str) else self.part(*key)

    def part(self, name: str, layer: int | None = None) -> Part:
        """Values of one site and layer (`embed` and other ends of the stream: no layer). Raises InputError for one not stored."""
        folder = f"acts/{self.part_name(name, layer)}"
        self.check_values()
        shape, dtype = self.manifest.site(name).shape, getattr(torch, self.manifest.dtype)
        return Part(self.starts, lambda number: self._file(self.shards[number], folder), shape, dtype)

    def check_values(self) -> None:
        """Raises InputError where the store keeps statistics only."""
        if not self.manifest.values:
            raise InputError(
                "this store keeps statistics only (`--layout statistics` exports them); harvest without --no-values to keep values"
            )

    def part_name(self, name: str, layer: int | None = None) -> str:
        """`resid_post/3`, or `embed`. Raises InputError for a part that is not stored."""
        layers = self.manifest.site(name).layers
        if (layer is None) == bool(layers) or (layer is not None and layer not in layers):
            raise InputError(
                f"{name} is stored at layers {list(layers) or 'none (an end of the stream)'}; {layer} was asked"
            )
        return name if layer is None else f"{name}/{layer}"

    def statistics(self, name: str, layer: int | None = None) -> Statistics:
        """Statistics of every unit of one site and layer over the finished shards, as `read_statistics` says."""
        return read_statistics(self, name, layer)

    def exemplars(self, name: str, layer: int | None, unit: int) -> tuple[Exemplar, ...]:
        """Where in the texts one unit was largest, from its statistics. Raises InputError where there are none, or no such unit."""
        found = self.statistics(name, layer)
        check_unit(self, name, unit)
        return exemplars(self, found, unit)

    def file_of(self, shard: int, folder: str) -> tuple[str, FileRecord]:
        """The file of a finished shard in `acts/resid_post/3` or the like. Raises ResultError where its commit names none."""
        for name, record in self.commit(shard).files.items():
            if name.rpartition("/")[0] == folder:
                return name, record
        raise ResultError(f"{self.place.url}: shard {shard} names no file in {folder}; {ADVICE}")

    def _file(self, shard: int, folder: str) -> ShardFile:
        name, record = self.file_of(shard, folder)
        file = ShardFile(self.place, name, record, verify=self.verify)
        expected = (self.plan.index["n_kept"][shard], *self.manifest.site(folder.split("/")[1]).shape)
        if (file.shape, str(file.dtype)) != (expected, f"torch.{self.manifest.dtype}"):
            raise ResultError(
                f"{self.place.url}/{name} holds {file.dtype} {list(file.shape)}, not {list(expected)}; {ADVICE}"
            )
        return file

    # -- tokens and documents ---------------------------------------------------------------------------------------
    def tokens(self, shard: int) -> ShardTokens:
        """The tokens of one shard, in stored order."""
        if shard not in self._tokens:
            self._tokens = {shard: read_tokens(self.place, self.plan, shard)}
        return self._tokens[shard]

    def token_table(self) -> Iterator[ShardTokens]:
        """The tokens of every finished shard: joined with `part`, row for row, where `kept` is true."""
        for shard in self.shards:
            yield self.tokens(shard)

    def document(self, doc: int) -> DocumentView:
        """Where one document lies. Raises InputError where it is not in the finished part of the store."""
        arrays = self._tokens_of(doc)
        id, text = self.text_of(doc)
        return DocumentView(doc, id, text, **arrays)

    def _tokens_of(self, doc: int) -> dict[str, np.ndarray]:
        """The kept tokens of a document in its own order; its text is not read."""
        pieces = [(number, shard) for number, shard in enumerate(self.shards) if self._holds(shard, doc)]
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("index", "token", "position", "start", "end")}
        for number, shard in pieces:
            tokens = self.tokens(shard)
            index = self.starts[number] + np.cumsum(tokens.kept) - 1
            mine = (tokens.doc == doc) & tokens.kept
            found["index"].append(index[mine])
            for name in ("token", "position", "start", "end"):
                found[name].append(getattr(tokens, name)[mine])
        if not any(len(piece) for piece in found["index"]):
            raise InputError(f"document {doc} is not in the store; it has {self.plan.n_docs:,} documents")
        arrays = {name: np.concatenate(pieces) for name, pieces in found.items()}
        order = np.argsort(arrays["start"], kind="stable") if (arrays["start"] >= 0).all() else slice(None)
        return {name: values[order] for name, values in arrays.items()}

    def _holds(self, shard: int, doc: int) -> bool:
        """Whether a shard may hold tokens of a document: shards follow the corpus."""
        first = self.plan.index["first_doc"]
        after = first[shard + 1] if shard + 1 < len(first) else None
        return first[shard] <= doc and (after is None or doc <= after)

    def text_of(self, doc: int) -> tuple[str | None, str | None]:
        """The id and the text of a document; None and None where the store keeps no text."""
        if not self.manifest.text:
            return None, None
        for shard in range(self.plan.n_shards):
            if self._holds(shard, doc):
                table = read_table(self.place, entry_of(self.plan, shard, "text")).to_pydict()
                if not {"doc", "id", "text"} <= set(table):
                    raise ResultError(f"{self.place.url}: the texts of shard {shard} have no text; {ADVICE}")
                if doc in table["doc"]:
                    at = table["doc"].index(doc)
                    return table["id"][at], table["text"][at]
        return None, None

    def values(self, doc: int, name: str, layer: int | None = None) -> Tensor:
        """The values [token, …] of one document's kept tokens."""
        return self.part(name, layer).take(self._tokens_of(doc)["index"])

    def __repr__(self) -> str:
        done = f"{len(self.shards)} of {self.plan.n_shards} shards"
        names = ", ".join(f"{s.name}[{len(s.layers)}]" if s.layers else s.name for s in self.sites)
        return f"Store({self.place.url}: {self.manifest.model}, {names}, {len(self):,} tokens, {done})"
