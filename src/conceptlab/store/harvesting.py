"""Harvest: the activations of a corpus into a store, planned beforehand, resumable at any moment, the same for any worker count."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from conceptlab.data.corpus import Corpus, TextList
from conceptlab.errors import InputError
from conceptlab.model import Model, load_model
from conceptlab.runs import SILENT, Progress, Task
from conceptlab.runs.job import Job
from conceptlab.runs.launch import OnTick, Reports, in_process
from conceptlab.runs.place import Place, place_of
from conceptlab.store.harvester import Harvester
from conceptlab.store.manifest import MANIFEST, Manifest, agree, read_manifest
from conceptlab.store.plan import PLAN, Plan, own_names, read_plan
from conceptlab.store.planning import make_plan
from conceptlab.store.store import Store
from conceptlab.store.wish import Wish, manifest_for, revision_of, tokenizer_fingerprint


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
    return plan.n_kept * width * sum(math.prod(site.shape) * len(site.parts) for site in manifest.sites)


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
    for name in [MANIFEST, *(name for folder in ("plan", "tokens", "text") for name in own_names(place, folder))]:
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
    return Job("conceptlab.store.harvesting:make_harvester", arguments, harvest.manifest.threads)


class Meter:
    """Tokens a second and what limits them, from what workers say while shards go on (`tick`) and end (`add`)."""

    def __init__(self, task: Task) -> None:
        self.task, self.started = task, time.perf_counter()
        self.tokens, self.shards, self.seconds, self.waited = 0, 0, 0.0, 0.0
        self._ticked: dict[int, int] = {}

    def tick(self, said: Mapping[str, Any]) -> None:
        """Count tokens of a shard that goes on."""
        self._ticked[said["shard"]] = self._ticked.get(said["shard"], 0) + said["tick"]
        self._count(said["tick"])

    def add(self, report: Mapping[str, Any]) -> None:
        """Count one finished shard."""
        self.shards += 1
        self.seconds += report["seconds"]
        self.waited += report["waited"]
        self._count(report["tokens"] - self._ticked.pop(report["shard"], 0))  # negative after a worker that died

    def _count(self, tokens: int) -> None:
        self.tokens += tokens
        self.task.advance(tokens)
        self.task.describe(f"harvest, {self}")

    @property
    def per_second(self) -> float:
        """Tokens a second of all workers together, since the start."""
        return self.tokens / max(time.perf_counter() - self.started, 1e-9)

    @property
    def limit(self) -> str:
        """ "disk" where models waited for their writers for more than a tenth of their time, else "model"."""
        return "disk" if self.waited > 0.1 * self.seconds else "model"

    def __str__(self) -> str:
        return f"{self.per_second:,.0f} tokens/s, limited by the {self.limit}"


def run_harvest(launch: Callable[[OnTick], Reports], harvest: Harvest, *, progress: Progress = SILENT) -> Meter:
    """Start a launcher and take its reports to their end, with a bar that counts tokens and says what limits them."""
    done = harvest.worker.ledger.finished()
    left = harvest.plan.n_tokens - sum(harvest.plan.index["n_tokens"][shard] for shard in done)
    with progress.task("harvest", left) as task:
        meter = Meter(task)
        for report in launch(meter.tick):
            meter.add(report)
    return meter


def harvest(
    model: Model,
    corpus: "str | Path | Sequence[str] | Corpus",
    store: str | Path,
    sites: str | Sequence[str] = "resid_post",
    *,
    on_nonfinite: Literal["error", "record"] = "error",
    progress: Progress | None = None,
    **wish: Any,
) -> Store:
    """Store the activations of a corpus in this process, or go on where an earlier call stopped; returns the finished store.

    `corpus`: texts, or what `conceptlab harvest` takes (a file, folder, pattern, URL). `wish`: the further fields of `Wish`
    (`layers`, `positions`, `rows`, `context`, `dtype`, …). Raises InputError where the store holds something else.
    """
    chosen = Wish((sites,) if isinstance(sites, str) else tuple(sites), **wish)
    with progress or Progress() as shown:
        opened = open_harvest(model, as_corpus(corpus), store, chosen, on_nonfinite=on_nonfinite, progress=shown)
        start = partial(in_process, opened.worker, threads=opened.manifest.threads)
        run_harvest(lambda on_tick: start(on_tick=on_tick), opened, progress=shown)
    return Store.open(store)


def as_corpus(corpus: "str | Path | Sequence[str] | Corpus") -> Corpus:
    """Texts, or something that can be opened, as a corpus."""
    if isinstance(corpus, str | Path):
        from conceptlab.data.open_corpus import open_corpus

        return open_corpus(corpus)
    return TextList(tuple(corpus)) if isinstance(corpus, Sequence) else corpus
