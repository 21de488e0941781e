"""The manifest of a store: everything that determines its bytes, so that the same manifest means the same store."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from conceptlab.errors import InputError, ResultError
from conceptlab.runs.blocks import BLAKE3, SHA256
from conceptlab.runs.place import Place
from conceptlab.runs.sealed import Damaged, difference, record_id, seal, unseal

SCHEMA = 2
BLOCK_HASHES = {1: SHA256, 2: BLAKE3}  # of each schema; they do not differ in anything else
MANIFEST = "manifest.json"
LATER = ("tokens",)  # fields that the first stores do not have
DTYPES = ("float32", "bfloat16", "float16")
ADVICE = "the same `conceptlab harvest` command writes it anew and keeps every finished shard"


@dataclass(frozen=True)
class SiteSpec:
    """One stored site: its layers (none for an end of the stream) and the shape of one token's value."""

    name: str
    layers: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The folder of each layer, `resid_post/3`; `embed` alone for an end of the stream."""
        return tuple(f"{self.name}/{layer}" for layer in self.layers) or (self.name,)


@dataclass(frozen=True)
class Manifest:
    """What a store holds. The `key` determines the bytes; beside it stand `versions` of the libraries and the `source` (model and
    corpus as they were named).

    `positions`: "all", "last" or indices. `rows`: "packed" or "documents". `tokenizer` and `corpus` are fingerprints.
    """

    model: str
    revision: str
    tokenizer: str
    corpus: str
    sites: tuple[SiteSpec, ...]
    dtype: str
    compute_dtype: str
    rows: str
    context: int
    positions: str | tuple[int, ...]
    batch_tokens: int
    shard_tokens: int
    threads: int
    values: bool = True
    statistics: bool = False
    text: bool = True
    stack: str | None = None
    bad_documents: str = "error"
    tokens: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def key(self) -> dict[str, Any]:
        """What must be equal for two runs to share a store."""
        found = asdict(self)
        beside = {"versions", "source"} | {name for name in LATER if found[name] is None}
        return {name: value for name, value in found.items() if name not in beside}

    @property
    def id(self) -> str:
        """The sha256 of the key."""
        return record_id(self.key)

    @property
    def block_hash(self) -> str:
        """What every block of a file of values or statistics is hashed by."""
        return BLOCK_HASHES[self.schema]

    def to_bytes(self) -> bytes:
        """As the sealed file `manifest.json`."""
        return seal({**self.key, "versions": dict(self.versions), "source": dict(self.source)})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Manifest":
        """Read a record of this or an older schema. Raises ResultError for a newer one."""
        schema = record.get("schema")
        if not isinstance(schema, int) or schema < 1:
            raise ResultError(f"its manifest names no schema ({schema!r}); {ADVICE}")
        if schema > SCHEMA:
            raise ResultError(
                f"it was written by a newer conceptlab (schema {schema}, this one reads up to {SCHEMA}); update"
            )
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        sites = tuple(SiteSpec(s["name"], tuple(s["layers"]), tuple(s["shape"])) for s in known.pop("sites"))
        positions = known.pop("positions")
        found = cls(**known, sites=sites, positions=positions if isinstance(positions, str) else tuple(positions))
        found.check()
        return found

    def check(self) -> None:
        """Raise TypeError where a field is of another kind than a harvest writes."""
        words = (self.model, self.revision, self.tokenizer, self.corpus, self.compute_dtype, self.rows)
        sizes = (self.context, self.batch_tokens, self.shard_tokens, self.threads)
        inner = [size for site in self.sites for size in (*(layer + 1 for layer in site.layers), *site.shape)]
        good = (
            all(isinstance(word, str) for word in words)
            and all(type(size) is int and 0 < size < 1 << 40 for size in (*sizes, *inner))
            and all(isinstance(site.name, str) and site.name.isidentifier() for site in self.sites)
            and self.dtype in DTYPES
            and (self.tokens is None or (type(self.tokens) is int and self.tokens > 0))
            and isinstance(self.versions, Mapping)
            and isinstance(self.source, Mapping)
        )
        if not good:
            raise TypeError("a field is of another kind")

    def site(self, name: str) -> SiteSpec:
        """One site. Raises InputError for one that is not stored."""
        for site in self.sites:
            if site.name == name:
                return site
        raise InputError(f"{name!r} is not in the store; it has {', '.join(s.name for s in self.sites)}")


def read_manifest(place: Place) -> Manifest | None:
    """The manifest of a store, None where there is none. Raises ResultError for a damaged or newer one."""
    content = place.read(MANIFEST)
    if content is None:
        return None
    try:
        return Manifest.from_record(unseal(content))
    except (Damaged, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, Damaged) else "lacks a field, or has one of another kind"
        raise ResultError(f"{place.url}/{MANIFEST} {reason}; {ADVICE}") from error
    except ResultError as error:
        raise ResultError(f"{place.url}: {error}") from error


def agree(place: Place, wanted: Manifest, planned: str | None) -> Manifest:
    """Write the manifest, or find the same one there (its own versions are then kept).

    A damaged one is written anew when `planned`, the manifest's id in the finished plan, is that of `wanted` in some schema. Raises
    InputError where the store holds something else.
    """
    wanted = next((one for s in BLOCK_HASHES if (one := replace(wanted, schema=s)).id == planned), wanted)
    if place.create(MANIFEST, wanted.to_bytes()):
        return wanted
    try:
        found = read_manifest(place)
    except ResultError:
        if planned != wanted.id:
            raise
        place.delete(MANIFEST)
        return agree(place, wanted, planned)
    if found is None:
        raise ResultError(f"{place.url}/{MANIFEST} vanished while it was read; run the command again")
    if found.key != wanted.key:
        raise InputError(
            f"{place.url} holds another store ({difference(found.key, wanted.key)}); choose another folder"
        )
    return found
