"""Harvest: the activations of a corpus into a store, planned beforehand, resumable at any moment, the same for any worker count."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from conceptlab.data.corpus import Corpus
from conceptlab.errors import InputError
from conceptlab.model import Model, load_model
from conceptlab.runs import SILENT, Progress
from conceptlab.runs.job import Job
from conceptlab.runs.launch import Reports
from conceptlab.runs.place import Place, place_of
from conceptlab.runs.sealed import record_id
from conceptlab.store.harvester import Harvester, site_specs
from conceptlab.store.manifest import DTYPES, MANIFEST, Manifest, agree, read_manifest
from conceptlab.store.plan import PLAN, Plan, read_plan
from conceptlab.store.planning import make_plan
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
    computes in. `threads` of torch and `batch_tokens` are part of the plan, since they can change the last bits of a value.
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
    width = max(_product(site.shape) for site in sites) * (4 if dtype == "float32" else 2)
    batch = max(wish.batch_tokens, context)
    tokens = wish.shard_tokens or min(max(SHARD_BYTES // width, SHARD_TOKENS[0]), SHARD_TOKENS[1])
    threads = wish.threads or (recorded.threads if recorded else torch.get_num_threads())
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
        versions={name: version(name) for name in VERSIONS},
        source=dict(source or {}),
    )


def _check(wish: Wish, model: Model) -> None:
    if wish.context is not None and not 1 <= wish.context <= model.max_length:
        raise InputError(f"--context {wish.context} is out of range; {model.name} takes 1 to {model.max_length} tokens")
    for name in ("batch_tokens", "shard_tokens", "threads"):
        value = getattr(wish, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value} is out of range; use at least 1")
    if isinstance(wish.positions, str) and wish.positions not in ("all", "last"):
        raise InputError(f'positions {wish.positions!r} are not known; use "all", "last" or indices such as 0,-1')
    if not (wish.values or wish.statistics):
        raise InputError("neither values nor statistics are to be kept; leave one of them on")


def _product(shape: Sequence[int]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found


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


@dataclass(frozen=True)
class Harvest:
    """A planned harvest: what `open_harvest` found or made; `run` computes what is missing."""

    place: Place
    manifest: Manifest
    plan: Plan
    model: Model
    on_nonfinite: str = "error"

    @property
    def worker(self) -> Harvester:
        """A worker that uses the model as it is in memory."""
        return Harvester(self.place, self.manifest, self.plan, self.model, self.on_nonfinite)

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return bytes_of_values(self.manifest, self.plan)


def bytes_of_values(manifest: Manifest, plan: Plan) -> int:
    """Bytes of all values of a finished store, headers aside."""
    width = (4 if manifest.dtype == "float32" else 2) if manifest.values else 0
    return plan.n_kept * width * sum(_product(site.shape) * len(site.parts) for site in manifest.sites)


def open_harvest(  # noqa: PLR0913 - what is harvested, from what, into what
    model: Model,
    corpus: Corpus,
    store: str | Path,
    wish: Wish,
    *,
    on_nonfinite: Literal["error", "record"] = "error",
    source: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Harvest:
    """Make or find the plan of a store. Raises InputError, with the store untouched, where it holds something else."""
    place = place_of(store)
    planned = read_plan(place)
    manifest = manifest_for(model, corpus, wish, _recorded(place), source or {"corpus": corpus.name})
    manifest = agree(place, manifest, planned.manifest if planned else None)
    try:
        plan = make_plan(place, manifest, corpus, model, progress=progress)
    except InputError:
        forget(place)
        raise
    return Harvest(place, manifest, plan, model, on_nonfinite)


def forget(place: Place) -> None:
    """Take back a plan that could not be finished, so that the folder is as it was; a finished plan stays."""
    if place.read(PLAN) is not None:
        return
    for name in [MANIFEST, *place.names("plan"), *place.names("tokens"), *place.names("text")]:
        place.delete(name)


def _recorded(place: Place) -> Manifest | None:
    try:
        return read_manifest(place)
    except InputError:
        return None


def make_harvester(store: str, source: str, loading: Mapping[str, Any], on_nonfinite: str = "error") -> Harvester:
    """The worker of a store whose plan is finished, with a model loaded from `source`: what other processes call.

    Raises InputError where the model is not the one of the manifest.
    """
    place = place_of(store)
    manifest, plan = read_manifest(place), read_plan(place)
    if manifest is None or plan is None:
        raise InputError(f"{store} has no finished plan; run `conceptlab harvest` on it first")
    model = load_model(source, **loading)
    model.name = manifest.model
    check_model(model, manifest)
    return Harvester(place, manifest, plan, model, on_nonfinite)


def check_model(model: Model, manifest: Manifest) -> None:
    """Raise InputError where the model or its tokenizer is not the one the store was made with."""
    if (revision := revision_of(model)) != manifest.revision:
        raise InputError(
            f"the store was made with revision {manifest.revision[:12]} of {manifest.model}, this model is {revision[:12]}; "
            "load that revision, or choose another store"
        )
    if tokenizer_fingerprint(model) != manifest.tokenizer:
        raise InputError("the tokenizer differs from the store's; use the one that the store was made with")


def job_of(harvest: Harvest, source: str, loading: Mapping[str, Any]) -> Job:
    """The harvest as a job for other processes, which load the model from `source` themselves."""
    arguments = {
        "store": harvest.place.url,
        "source": source,
        "loading": dict(loading),
        "on_nonfinite": harvest.on_nonfinite,
    }
    return Job("conceptlab.store.harvest:make_harvester", arguments, harvest.manifest.threads)


class Rate:
    """Tokens a second and what limits them, from the reports of finished shards."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.tokens, self.shards, self.seconds, self.waited = 0, 0, 0.0, 0.0

    def add(self, report: Mapping[str, Any]) -> None:
        """Count one finished shard."""
        self.shards += 1
        self.tokens += report["tokens"]
        self.seconds += report["seconds"]
        self.waited += report["waited"]

    @property
    def per_second(self) -> float:
        """Tokens a second of all workers together, since the start."""
        return self.tokens / max(time.perf_counter() - self.started, 1e-9)

    @property
    def limit(self) -> str:
        """ "disk" where the model waited for the writer for more than a tenth of its time, else "model"."""
        return "disk" if self.waited > 0.1 * self.seconds else "model"

    def __str__(self) -> str:
        return f"{self.per_second:,.0f} tokens/s, limited by the {self.limit}"


def run_harvest(reports: Reports, harvest: Harvest, *, progress: Progress = SILENT) -> Rate:
    """Take the reports of a launcher to their end, with a bar that counts tokens and says what limits them."""
    done = harvest.worker.ledger.finished()
    left = harvest.plan.n_tokens - sum(harvest.plan.index["n_tokens"][shard] for shard in done)
    rate = Rate()
    with progress.task("harvest", left) as task:
        for report in reports:
            rate.add(report)
            task.advance(report["tokens"])
            task.describe(f"harvest, {rate}")
    return rate
