"""Repair a store: what is damaged is taken away and computed again, to the same bytes; nothing else is touched."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from conceptlab.data.corpus import Corpus
from conceptlab.errors import InputError
from conceptlab.model import Model
from conceptlab.runs import SILENT, Progress
from conceptlab.runs.ledger import commit_name
from conceptlab.runs.place import place_of
from conceptlab.runs.threads import threads
from conceptlab.store.harvester import Harvester
from conceptlab.store.manifest import MANIFEST, Manifest, read_manifest
from conceptlab.store.plan import PLAN, read_plan
from conceptlab.store.planning import make_plan
from conceptlab.store.verifying import Verdict, verify

PLANNED = ("plan", "tokens", "text")


@dataclass(frozen=True)
class Repair:
    """What a verdict asks for: `delete` these files, `recompute` these shards, make the plan again or not."""

    delete: tuple[str, ...]
    recompute: tuple[int, ...]
    replan: bool

    def __str__(self) -> str:
        what = [f"compute {len(self.recompute):,} shards again"] if self.recompute else []
        what += ["make the plan again"] if self.replan else []
        return f"take away {len(self.delete):,} damaged files, {' and '.join(what) or 'which nothing needs'}"


def needed(verdict: Verdict) -> Repair:
    """The least that makes a store whole again. A damaged shard loses its commit; its whole files are published again unchanged."""
    names: dict[str, None] = {}
    shards: set[int] = set()
    for fault in verdict.faults:
        if fault.kind in ("commit", "data") and fault.shard is not None:
            shards.add(fault.shard)
            names[commit_name(fault.shard)] = None  # first: without it the shard does not count
        names[fault.name] = None
    replan = any(fault.kind in PLANNED for fault in verdict.faults)
    if replan:
        names[PLAN] = None
    return Repair(tuple(names), tuple(sorted(shards)), replan)


def repair(  # noqa: PLR0913 - a store and what made it
    url: str | Path,
    verdict: Verdict,
    model: Callable[[Manifest], Model],
    corpus: Callable[[Manifest], Corpus],
    *,
    progress: Progress = SILENT,
) -> Verdict:
    """Do what `needed` says and verify again. `model` and `corpus` are opened where they are needed, before anything is deleted.

    Raises InputError where the manifest itself is damaged: then only the command that made the store can write it anew.
    """
    place, wanted = place_of(url), needed(verdict)
    if any(fault.kind == "manifest" for fault in verdict.faults):
        raise InputError(
            f"{place.url}: {MANIFEST} is damaged; run the harvest command that made the store: it writes it anew and keeps every "
            "finished shard"
        )
    manifest = read_manifest(place)
    if manifest is None:
        raise InputError(f"{place.url} has lost its manifest; run the harvest command that made it")
    maker = model(manifest) if wanted.recompute or wanted.replan else None
    documents = corpus(manifest) if wanted.replan else None
    if documents is not None and documents.fingerprint() != manifest.corpus:
        raise InputError(f"{documents.name} is not the corpus that the store was made from; give that one")
    progress.say(str(wanted))
    for name in wanted.delete:
        place.delete(name)
    if maker is not None and documents is not None:
        make_plan(place, manifest, documents, maker, progress=progress)
    plan = read_plan(place)
    if maker is not None and plan is not None:
        worker = Harvester(place, manifest, plan, maker, "record")
        with threads(manifest.threads), worker.ledger as ledger, progress.task("repair", len(wanted.recompute)) as task:
            for shard in wanted.recompute:
                with ledger.claim(shard) as mine:
                    if mine:
                        worker.do(shard)
                task.advance()
    return verify(url, progress=progress)
