"""What does a task lose when one head is taken away, for every head of a model? Each alone is set to its mean over the rows'
tokens.

The loss is in units of the metric; `whole` is what is lost when all heads go at once, so that a share says how much of the task one
head carries. Of two redundant heads either alone loses nothing (`set_effects`). Source: Wang et al. 2023 (mean ablation).
Control: the mean loss over all other heads, a set of the same size at random; p asks of the rows whether the loss is more than
1 % of the whole (signs exchanged, so at least about 2 ** -rows), q over heads.
Cost: a forward for the means, and a sweep of one edit a head."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.floor import FLOOR
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.swapped_rows import swapped_rows_p
from conceptlab.model import Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "losses without one head",
    "paper": "Wang et al. 2023, Interpretability in the Wild",
    "tags": ["effects", "ablation", "heads"],
    "takes": "a model, texts, a metric",
    "returns": "Scores",
    "cost": "one forward and a sweep of one edit a head",
}


def head_losses(
    model: Model,
    texts: Texts,
    metric: Metric,
    *,
    groups: Sequence[int | str] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Loss of `metric` (clean - ablated) by head, axes (layer, head): `score` with `low`, `high` (95 %), `control` the mean over
    the other heads, `p` (two-sided, more than `FLOOR` of the whole), `q`; NaN where a layer has no heads. Attributes `clean`,
    `whole`.

    `whole` is below 0 where the heads together are against what the metric asks (a task of holding something back); a warning says
    so. Raises SiteError where no layer has heads.
    """
    batch, before = model.encode(texts), model.forwards
    layers = model.layers_with("z")
    if not layers:
        model.tap("z", 0)  # says why no layer has it
    means = model.capture(batch, "z", positions="all")["z"].mean(0)  # [layer, head, d_head]
    places = [(axis, layer, h) for axis, layer in enumerate(layers) for h in range(model.tap("z", layer).heads or 0)]
    single = [(Edit(Site("z", layer, (h,)), "mean", value=means[axis, h : h + 1]),) for axis, layer, h in places]
    found = sweep(model, batch, [*single, tuple(edit for (edit,) in single)], metric, progress=progress)
    loss = -found.change  # [head and all, row]
    whole = float(loss[-1].mean())
    table = _table(loss[:-1], whole, row_groups(groups, len(batch)), seed)
    at = np.array([(layer, h) for _, layer, h in places]).T
    data = xr.Dataset({name: (("layer", "head"), _spread(model, at, column)) for name, column in table.items()})
    data.attrs |= {"clean": float(found.clean.mean()), "whole": whole}
    warnings = (
        () if whole > 0 else ("taking every head away loses nothing of this metric: together they are against it",)
    )
    provenance = Provenance(
        "losses without one head", len(batch), seed, model.name, model.revision, settings={"metric": metric.name, "floor": FLOOR},
        passes=round(model.forwards - before), causal="ablation", warnings=(*found.notes, *warnings),
    )  # fmt: skip
    return Scores(data, provenance)


def _table(loss: np.ndarray, whole: float, together: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Columns [head] of losses [head, row]."""
    score = loss.mean(1)
    low, high = bootstrap_mean(loss.T, together, seed=seed)
    p = swapped_rows_p(loss.T, np.zeros_like(loss.T), floor=FLOOR * abs(whole), seed=seed)
    others = (score.sum() - score) / max(1, len(score) - 1)
    return {"score": score, "low": low, "high": high, "control": others, "p": p, "q": q_values(p)}


def _spread(model: Model, at: np.ndarray, column: np.ndarray) -> np.ndarray:
    found = np.full((model.n_layers, model.n_heads), np.nan)
    found[at[0], at[1]] = column
    return found
