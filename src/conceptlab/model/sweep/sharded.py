"""A sweep as a job: its parts are shards, computed by the workers of any launcher, kept as they end and put together afterwards.

sweep.json                   what is swept, its parts and memory budget, the plan, and the unedited metric: by the first worker
values/<part>-<hash12>.npy   the metric [item, row] of a part: items part, part + n, part + 2n, … of n parts
commit/<part>.json           written last: the part is finished

A part's batches depend on the record alone, so its bits do not depend on who computed it (CPU, fp32). They are those of `sweep`
with `out=` and the same parts; a sweep in one piece batches other items together and may differ in the last bits.
"""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptlab.errors import InputError, ResultError
from conceptlab.model.metric import Metric
from conceptlab.model.sweep.parts import key_of, n_parts_for
from conceptlab.model.sweep.plan import Plan, default_budget
from conceptlab.model.sweep.prepared import Prepared, clean_values, plan_of, prepare, refuse_nan, run_share
from conceptlab.model.sweep.run import Sweep
from conceptlab.model.sweep.work import Item
from conceptlab.runs.blocks import record_of
from conceptlab.runs.job import Job, function_of
from conceptlab.runs.ledger import Commit, Ledger
from conceptlab.runs.place import Place, place_of, put
from conceptlab.runs.sealed import Damaged, difference, record_id, seal, unseal

if TYPE_CHECKING:
    from conceptlab.model.model import Model, Texts

RECORD = "sweep.json"
SCHEMA = 1
AGAIN = "run the same job again"


@dataclass(frozen=True, eq=False)
class Request:
    """What to sweep, the arguments of `sweep`; every worker makes its own. `n_parts` None: about 500 forwards a part."""

    model: "Model"
    clean: "Texts"
    edits: Sequence[Item]
    metric: Metric
    budget_bytes: int | None = None
    skip_unchanged: bool = True
    n_parts: int | None = None


def sweep_job(make: str, out: Path | str, arguments: Mapping[str, Any] | None = None, *, threads: int = 1) -> Job:
    """The sweep that `make` ("package.module:function", called with plain JSON `arguments`) requests, kept in `out`.

    `make` returns a Request, the same one in every process.
    """
    found = {"make": make, "arguments": dict(arguments or {}), "out": str(out), "threads": threads}
    return Job("conceptlab.model.sweep.sharded:make_sweeper", found, threads)


def make_sweeper(make: str, arguments: Mapping[str, Any], out: str, threads: int) -> "Sweeper":
    """The worker. Raises InputError where `out` holds another sweep or `make` gives no Request."""
    request = function_of(make)(**arguments)
    if not isinstance(request, Request):
        raise InputError(f"{make!r} gives {type(request).__name__}; let it return a Request (conceptlab.model.sweep)")
    return Sweeper(request, place_of(out), threads)


class Sweeper:
    """Computes parts of the sweep in `place`."""

    def __init__(self, request: Request, place: Place, threads: int) -> None:
        self.place = place
        self.record = _agreed(request, place, threads)
        self.prepared = _prepared(request, self.record["budget_bytes"])
        self.ledger = Ledger(place, record_id(self.record), self.record["parts"])

    def do(self, part: int) -> Mapping[str, Any]:
        """Compute and keep one part. Raises InputError for a value that is not a finite number."""
        start, job = time.perf_counter(), self.prepared
        share = _share(self.record, part)
        found = np.full((len(job.items), len(job.batch)), np.nan)
        skipped, forwards = 0, 0.0
        for rows, items, values, n_skipped, equivalents in run_share(job, share):
            found[share[items], rows] = values
            skipped, forwards = skipped + n_skipped, forwards + equivalents
        refuse_nan(job, found, share)
        job.model.forwards += forwards
        self._keep(part, found[share], {"skipped": skipped, "forwards": forwards})
        return {"units": len(share) * len(job.batch), "forwards": forwards, "seconds": time.perf_counter() - start}

    def _keep(self, part: int, values: np.ndarray, counts: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        record = record_of(buffer.getvalue())
        name = f"values/{part:06d}-{record.sha256[:12]}.npy"
        put(self.place, name, buffer.getvalue())
        self.ledger.commit(part, {name: record}, counts)


def gather(out: Path | str) -> Sweep:
    """The sweep whose parts are all finished in `out`; no model is needed.

    Raises ResultError where there is none, parts are missing, or a file is not as it was written.
    """
    place = place_of(out)
    record = _read(place)
    if record is None:
        raise ResultError(f"{place.url} holds no sweep (no {RECORD}); run its job first")
    ledger = Ledger(place, record_id(record), record["parts"])
    missing = record["parts"] - len(ledger.finished())
    if missing:
        raise ResultError(f"{missing} of the {record['parts']} parts in {place.url} are not finished; {AGAIN}")
    plan = Plan(**record["plan"])
    values = np.full((plan.n_items, plan.n_rows), np.nan)
    skipped, forwards = 0, 0.0
    for part in range(record["parts"]):
        commit, values[_share(record, part)] = _part(place, ledger, part)
        skipped, forwards = skipped + commit.record["skipped"], forwards + commit.record["forwards"]
    notes = (plan.note,) if plan.note else ()
    plan = replace(plan, n_skipped=plan.n_skipped + skipped)
    return Sweep(values, np.array(record["clean"]), plan, forwards + plan.n_rows, notes)


def _share(record: Mapping[str, Any], part: int) -> np.ndarray:
    """The items of a part."""
    return np.arange(part, record["plan"]["n_items"], record["parts"])


def _prepared(request: Request, budget_bytes: int) -> Prepared:
    return prepare(request.model, request.clean, request.edits, request.metric, budget_bytes, request.skip_unchanged)


def _agreed(request: Request, place: Place, threads: int) -> dict[str, Any]:
    """The record of the sweep in `place`: made by the first worker, the same sweep for all others."""
    with Ledger(place, "", 0) as ledger, ledger.alone():
        found = _read(place)
        if found is None:
            place.create(RECORD, seal(_planned(request, threads)))
            found = _read(place)
    if found is None:
        raise ResultError(f"{place.url}/{RECORD} vanished while it was read; {AGAIN}")
    prepared = _prepared(request, found["budget_bytes"])
    mine = {**_key(request, prepared, threads), **_asked(request)}
    theirs = {name: found.get(name) for name in mine}
    if theirs != mine:
        raise InputError(f"{place.url} holds another sweep ({difference(theirs, mine)}); choose another folder")
    return found


def _key(request: Request, prepared: Prepared, threads: int) -> dict[str, Any]:
    """What determines the values."""
    found = key_of(prepared.model, prepared.batch, prepared.items, prepared.metric)
    return {**found, "skip_unchanged": request.skip_unchanged, "threads": threads, "schema": SCHEMA}


def _asked(request: Request) -> dict[str, Any]:
    """What may be left open; the first worker then settles it."""
    asked = {"budget_bytes": request.budget_bytes, "parts": request.n_parts}
    return {name: value for name, value in asked.items() if value is not None}


def _planned(request: Request, threads: int) -> dict[str, Any]:
    budget = request.budget_bytes or default_budget()
    prepared = _prepared(request, budget)
    plan = plan_of(prepared)
    parts = request.n_parts or n_parts_for(plan.n_items, plan.forward_equivalents)
    if not 1 <= parts <= plan.n_items:
        raise InputError(f"{plan.n_items} items cannot be cut into {parts} parts; use 1 to {plan.n_items}")
    clean, _ = clean_values(prepared)
    known = {name: value for name, value in asdict(plan).items() if name != "seconds"}
    open_choices = {"budget_bytes": budget, "parts": parts}
    return {**_key(request, prepared, threads), **open_choices, "plan": known, "clean": clean.tolist()}


def _read(place: Place) -> dict[str, Any] | None:
    content = place.read(RECORD)
    if content is None:
        return None
    try:
        found = unseal(content)
    except Damaged as error:
        raise ResultError(f"{place.url}/{RECORD} {error}; remove that file, then {AGAIN}") from error
    if found.get("schema") != SCHEMA:
        raise ResultError(f"{place.url} was written by another conceptlab (schema {found.get('schema')!r}); update")
    return found


def _part(place: Place, ledger: Ledger, part: int) -> tuple[Commit, np.ndarray]:
    try:
        commit = ledger.commit_of(part)
        if commit is None:
            raise Damaged("is gone")
        (name, record), *_ = commit.files.items()
        content = place.read(name) or b""
        if record_of(content) != record:
            raise Damaged(f"names {name}, which is damaged")
        return commit, np.load(io.BytesIO(content), allow_pickle=False)
    except (Damaged, ValueError, KeyError) as error:
        where = f"{place.url}/commit/{part:06d}.json"
        raise ResultError(f"{where} {error}; remove that file, then {AGAIN}") from error
