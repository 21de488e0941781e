"""What is to be stored, and the manifest that follows from it: everything that determines the store's bytes."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch

from conceptlab.data.corpus import Corpus
from conceptlab.errors import InputError
from conceptlab.model import Batch, Model
from conceptlab.results import Site
from conceptlab.runs.sealed import record_id
from conceptlab.store.manifest import DTYPES, SCHEMA, Manifest, SiteSpec
from conceptlab.store.rows import Layout

VERSIONS = ("conceptlab", "torch", "transformers", "safetensors", "pyarrow")
SHARD_BYTES = 128 << 20  # about: one file of one layer
SHARD_TOKENS = (1 << 10, 1 << 18)  # never fewer or more than these, for small and large widths
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Wish:
    """What to store. `sites`: names (all of `layers`, default every layer that has the site) or single layers (`L5.resid_post`).

    `positions`: "all", "last", or indices of a row, negative from its end. `rows`: "packed" fills every row up to `context` tokens
    (default: what the model can take, at most 1,024), "documents" begins one with every document. `dtype` None: what the model
    computes in. `threads` of torch (None: this machine's, shared by `workers`) and `batch_tokens` are part of the plan, since they
    can change the last bits of a value. `tokens`: stop at the first row that reaches so many (None: the whole corpus).
    """

    sites: tuple[str, ...]
    layers: tuple[int, ...] | None = None
    positions: str | tuple[int, ...] = "all"
    rows: Layout = "packed"
    context: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch_tokens: int = BATCH_TOKENS
    shard_tokens: int | None = None
    threads: int | None = None
    values: bool = True
    statistics: bool = False
    text: bool = True
    skip_bad: bool = False
    tokens: int | None = None
    workers: int = 1


def manifest_for(
    model: Model,
    corpus: Corpus,
    wish: Wish,
    recorded: Manifest | None = None,
    source: Mapping[str, Any] | None = None,
) -> Manifest:
    """Everything that determines the store's bytes. `recorded`: what the store says already, for what the wish leaves open;
    `source`: how model and corpus were named, for `repair`.

    Raises InputError or SiteError for what this model or a store cannot do.
    """
    _check(wish, model)
    sites = site_specs(model, list(wish.sites), wish.layers)
    compute = str(next(p for p in model.module.parameters() if p.is_floating_point()).dtype).removeprefix("torch.")
    dtype = wish.dtype or (compute if compute in DTYPES else "float32")
    context = wish.context or min(model.max_length, 1024)
    width = max(math.prod(site.shape) for site in sites) * (4 if dtype == "float32" else 2)
    batch = max(wish.batch_tokens, context)
    tokens = wish.shard_tokens or min(max(SHARD_BYTES // width, SHARD_TOKENS[0]), SHARD_TOKENS[1])
    threads = wish.threads or (recorded.threads if recorded else max(1, torch.get_num_threads() // wish.workers))
    return Manifest(
        model=model.name,
        revision=revision_of(model),
        stack=model.stack.name if model.stack.name else None,
        tokenizer=tokenizer_fingerprint(model),
        corpus=corpus.fingerprint(),
        sites=sites,
        dtype=dtype,
        compute_dtype=compute,
        rows=wish.rows,
        context=context,
        positions=wish.positions,
        batch_tokens=batch,
        shard_tokens=tokens,
        threads=threads,
        values=wish.values,
        statistics=wish.statistics,
        text=wish.text,
        bad_documents="skip" if wish.skip_bad else "error",
        tokens=wish.tokens,
        versions={name: version(name) for name in VERSIONS},
        source=dict(source or {}),
        schema=recorded.schema if recorded else SCHEMA,
    )


def _check(wish: Wish, model: Model) -> None:
    if wish.context is not None and not 1 <= wish.context <= model.max_length:
        raise InputError(f"--context {wish.context} is out of range; {model.name} takes 1 to {model.max_length} tokens")
    for name in ("batch_tokens", "shard_tokens", "threads", "tokens"):
        value = getattr(wish, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} is out of range; use at least 1")
    if isinstance(wish.positions, str) and wish.positions not in ("all", "last"):
        raise InputError(f'positions {wish.positions!r} are not known; use "all", "last" or indices such as 0,-1')
    if not (wish.values or wish.statistics):
        raise InputError("neither values nor statistics are to be kept; leave one of them on")


def site_specs(model: Model, sites: "list[str]", layers: "tuple[int, ...] | None") -> tuple[SiteSpec, ...]:
    """The sites to store, with their layers and the shape of one token's value, asked of the model by one short forward.

    `sites`: names (`resid_post`, all of `layers`) or single layers (`L5.resid_post`). Raises SiteError for a site or layer that the
    model does not have, InputError for one whose size is not the same for every text.
    """
    wanted: dict[str, set[int]] = {}
    for text in sites:
        site = Site.parse(text)
        if site.name == "pattern":
            raise InputError("pattern has one value a pair of tokens, which no store of tokens holds; store q and k")
        if site.units or site.position is not None:
            raise InputError(f"{text!r} names units or a position; give whole sites, and tokens with --positions")
        if site.kind == "end":
            model.tap(site.name)
            wanted.setdefault(site.name, set())
            continue
        chosen = [site.layer] if site.layer is not None else list(layers or model.layers_with(site.name)) or [0]
        for layer in chosen:
            model.tap(site.name, layer)
        wanted.setdefault(site.name, set()).update(chosen)
    if not wanted:
        raise InputError("no site was named; give for example --sites resid_post")
    ordered = {name: tuple(sorted(found)) for name, found in wanted.items()}
    acts = model.capture(Batch(((1, 2, 3),)), ordered, positions="last")
    return tuple(SiteSpec(name, found, tuple(acts.by_layer(name)[0].shape[1:])) for name, found in ordered.items())


def revision_of(model: Model) -> str:
    """The model's revision; of a module that came from no folder or hub, the sha256 of its weights."""
    if model.revision != "in memory":
        return model.revision
    digest = hashlib.sha256()
    for name, weights in model.module.state_dict().items():
        digest.update(f"{name} {weights.dtype} {tuple(weights.shape)} ".encode())
        if not weights.is_meta:  # offloaded to the disk
            flat = weights.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tokenizer_fingerprint(model: Model) -> str:
    """The sha256 of what the tokenizer does: its whole definition where it is a fast one, else its vocabulary."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise InputError(f"{model.name} comes without a tokenizer; put tokenizer.json beside its weights")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return record_id({"definition": backend.to_str()})
    return record_id({"vocabulary": dict(sorted(tokenizer.get_vocab().items()))})
