"""Whether what runs on the device is right: captures as on the CPU, sweeps as plain full runs, in float32 and in bfloat16.

A bfloat16 sweep batches tokens otherwise than a plain run does, so it rounds otherwise; how much rounding makes stands beside: the
plain run in another batch shape, and the plain run of the same weights in float32.
"""

import copy

import numpy as np
import torch

from conceptlab.model import Batch, Model, load_model
from conceptlab.model.metric import Metric, logit_diff
from conceptlab.model.sweep import sweep
from conceptlab.model.sweep.plain import plain_values
from conceptlab.results import Edit

from .record import Record

KINDS = ("gpt2", "llama", "gemma2", "gpt_neox", "mixtral", "gpt_oss")
SITES = ("resid_pre", "resid_post", "z", "mlp_post", "attn_out", "mlp_out")
LENGTHS = (7, 5, 7)


def run_checks(record: Record, device: torch.device, *, tiny: bool) -> None:
    """Every architecture; needs the project's tests beside it."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for kind in KINDS[: 1 if tiny else None]:
        record.guarded("Right on the device", kind, lambda k=kind: _check(record, device, k, 12 if tiny else 2))


def _check(record: Record, device: torch.device, kind: str, every: int) -> None:
    from tests.conformance.examine import case_of
    from tests.model.test_sweep import rows_of, some_edits

    cpu = case_of(kind).model
    batch = rows_of(cpu, LENGTHS)
    edits = [e if isinstance(e, tuple) else (e,) for e in some_edits(cpu, batch)][::every]
    exact = load_model(copy.deepcopy(cpu.module).to(device))
    half = load_model(copy.deepcopy(cpu.module).to(device, torch.bfloat16))
    captured = _captured(cpu, exact, batch)
    for name, model in (("float32", exact), ("bfloat16", half)):
        error, beside = _sweep_error(model, batch, edits)
        strategy = model.sweep_strategy
        beside = {"capture_error": captured} if name == "float32" else beside
        met = error <= 1e-5 and captured <= 1e-5 if name == "float32" else error <= 2 * max(beside.values())
        record.add(
            "Right on the device", f"{kind}, {name}", edits=len(edits), how=strategy.kind + ", late" * strategy.late,
            sweep_error=error, **beside, met=met,
        )  # fmt: skip


def _captured(cpu: Model, gpu: Model, batch: Batch) -> float:
    """The largest relative error of any site."""
    sites = [site for site in SITES if cpu.layers_with(site)]
    ours, theirs = (model.capture(batch, sites, positions="all") for model in (gpu, cpu))
    return max(float((ours[s].cpu() - theirs[s]).abs().max() / theirs[s].abs().max()) for s in sites)


def _metric(rows: range) -> Metric:
    return logit_diff([11 + r for r in rows], [21 + r for r in rows])


def _sweep_error(model: Model, batch: Batch, edits: list[tuple[Edit, ...]]) -> tuple[float, dict[str, float]]:
    """Of the sweep against plain full runs; and, in half precision, of those runs in another batch shape and against float32."""
    metric = _metric(range(len(batch)))
    found = sweep(model, batch, edits, metric, skip_unchanged=False).values
    plain = np.stack([plain_values(model, batch, item, metric) for item in edits])
    scale, beside = np.abs(plain).max(), {}
    if next(model.module.parameters()).dtype == torch.bfloat16:
        wide = load_model(copy.deepcopy(model.module).float())
        exact = np.stack([plain_values(wide, batch, item, metric) for item in edits])
        beside = {
            "plain_in_another_batch": _rounding(model, batch, edits, plain) / scale,
            "plain_beside_float32": float(np.abs(plain - exact).max() / scale),
        }
    return float(np.abs(found - plain).max() / scale), beside


def _rounding(model: Model, batch: Batch, edits: list[tuple[Edit, ...]], plain: np.ndarray) -> float:
    """How far the plain runs of single rows are from those of all rows, for edits whose values are the same for every row."""
    common = [n for n, item in enumerate(edits) if all(e.value is None or e.value.dim() <= 1 for e in item)]
    worst = 0.0
    for row in range(len(batch)):
        one, metric = batch.select([row]), _metric(range(row, row + 1))
        for n in common:
            worst = max(worst, float(np.abs(plain_values(model, one, edits[n], metric) - plain[n, row]).max()))
    return worst
