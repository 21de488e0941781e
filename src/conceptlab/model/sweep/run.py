"""sweep: any list of edits under any metric, each paying only for what it changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from conceptlab.model.metric import Metric
from conceptlab.model.sweep.parts import Parts, parts_of
from conceptlab.model.sweep.plan import Plan
from conceptlab.model.sweep.prepared import Prepared, clean_values, plan_of, prepare, refuse_nan, run_share
from conceptlab.model.sweep.work import Item
from conceptlab.runs import SILENT, Progress, Task, interruptible

if TYPE_CHECKING:
    from conceptlab.model.model import Model, Texts


@dataclass(frozen=True, eq=False)
class Sweep:
    """`values` [edit, row]: the metric under every item (NaN where another shard has it); `clean` [row]: unedited.

    `passes` counts what ran in bare forwards of one row, `notes` say what could not be skipped and why.
    """

    values: np.ndarray
    clean: np.ndarray
    plan: Plan
    passes: float
    notes: tuple[str, ...] = ()

    @property
    def change(self) -> np.ndarray:
        """values - clean [edit, row]."""
        return self.values - self.clean


def sweep(  # noqa: PLR0913 - what is swept, and how long work is run
    model: "Model",
    clean: "Texts",
    edits: Sequence[Item],
    metric: Metric,
    *,
    budget_bytes: int | None = None,
    progress: Progress = SILENT,
    out: Path | str | None = None,
    shard: tuple[int, int] | None = None,
    skip_unchanged: bool = True,
) -> Sweep:
    """The metric of every row of `clean` under every item of `edits` (an Edit, or a tuple of Edits applied together).

    Equal to running `metric` under `model.edited(*item)`, to rounding. Blocks below a change are skipped; positions before it too
    where that was found exact on this model; items whose value is what stands there anyway are known (`skip_unchanged`). With `out`
    finished parts are kept on disk and found again; `shard` (i, n) does the i-th of n independent shares, which a call without
    `shard` on the same `out` puts together. Raises InputError for an impossible request, a budget too small for one row, or a patch
    that makes the metric NaN; SiteError for a site that the model lacks.
    """
    job = prepare(model, clean, edits, metric, budget_bytes, skip_unchanged)
    plan = plan_of(job)
    base, seconds = clean_values(job)
    plan = replace(plan, seconds=seconds * plan.forward_equivalents)
    progress.say(str(plan))
    found = np.full((len(job.items), len(job.batch)), np.nan)
    counts = [0, 0.0]
    with (
        parts_of(job.model, job.batch, job.items, job.metric, out, shard, plan.forward_equivalents) as parts,
        progress.task("sweep", total=plan.n_units) as task,
    ):
        kept = "finished parts are kept; the same call with out= goes on" if out else "give out= to keep finished parts"
        with interruptible(kept):
            for number, share in parts.shares:
                _finish(job, parts, number, share, found, counts, task)
    refuse_nan(job, found, parts.mine)
    plan = replace(plan, n_skipped=plan.n_skipped + counts[0])
    model.forwards += counts[1]
    notes = (job.strategy.note,) if job.strategy.note else ()
    return Sweep(found, base, plan, counts[1] + len(job.batch), notes)


def plan_sweep(
    model: "Model", clean: "Texts", edits: Sequence[Item], metric: Metric, *, budget_bytes: int | None = None
) -> Plan:
    """What `sweep` with the same arguments will cost; nothing is run but the trial that finds what is exact on this model."""
    return plan_of(prepare(model, clean, edits, metric, budget_bytes, True))


def _finish(  # noqa: PLR0913 - one part and where it goes
    job: Prepared, parts: Parts, number: int, share: np.ndarray, found: np.ndarray, counts: list, task: Task
) -> None:
    """Take a part from disk, or run it and keep it."""
    done = parts.load(number)
    if done is None:
        done = np.full((len(share), len(job.batch)), np.nan)
        for rows, items, values, skipped, equivalents in run_share(job, share):
            done[items, rows] = values
            counts[0] += skipped
            counts[1] += equivalents
            task.advance(len(values))
        parts.keep(number, done)
    else:
        task.advance(done.size)
    found[share] = done
