"""Attribution patching: to first order, what every place of a model does, from one forward and one backward for all of them.

Source: Nanda 2023, Attribution Patching; Kramar et al. 2024, AtP*. The estimate for a place is the sum over its coordinates of
(value on the other text - value on this one) x (gradient of the metric here), divided by the change of the metric: 0 nothing, 1
all that the whole change does. Noising takes the gradient on the clean text, denoising on the corrupted one. Places are cells
(layer, position) of the stream or of what a sublayer adds, heads (their `z`) or neurons, one by one.

Control: the same cell's gradient times a random change as long, of which `control` is the root mean square over draws; p asks
that the estimate be larger than those (`evidence/moderated.py`) and agree in sign over rows; q is over every cell that is moved.
One neuron has no other direction: its control is its change with a random sign in every row.
Known to fail through saturated softmaxes and where paths are redundant, so `n_exact` cells, the largest and as many at random,
are patched exactly (`exact`), and the settings' `calibration` says how far sizes may be believed; a warning flags it.

Departure: AtP*'s corrections (recomputed softmax for queries and keys, dropped layers) are not made; the exact check stands in.
Cost: 2 forwards and 1 backward a row for all cells of the site; `n_exact` patches by `sweep`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence.agreement import agreement
from conceptlab.evidence.moderated import q_of_moved
from conceptlab.evidence.row_moments import RowMoments
from conceptlab.measure.circuits.ends import Ends
from conceptlab.measure.patching.activation_patching import AXES
from conceptlab.measure.patching.pairs import Direction, Pairs, make_pairs
from conceptlab.model import Model
from conceptlab.model.gradients import Place, gradients, in_groups
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.numerics.rotations import random_signs, rotated
from conceptlab.results import SITES, Edit, Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "attribution patching",
    "paper": "Nanda 2023, Attribution Patching; Kramar et al. 2024, AtP*",
    "tags": ["attribution", "heads", "neurons", "stream"],
    "takes": "a model, clean and corrupted texts of one length, a metric",
    "returns": "Scores",
    "cost": "2 forwards and 1 backward a row for every cell",
}
By = Literal["position", "head", "head_position", "neuron"]
FITS = {
    "position": ("stream",),
    "head": ("head", "kv_head"),
    "head_position": ("head", "kv_head"),
    "neuron": ("neuron",),
}


def attribution_patching(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    clean: Texts,
    corrupted: Texts,
    metric: Metric,
    *,
    site: str = "resid_pre",
    by: By = "position",
    direction: Direction = "noising",
    n_exact: int = 10,
    n_random: int = 10,
    budget_bytes: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Estimated effects of patching `site`, cell by cell; `by` is "position", "head" (all positions), "head_position" or "neuron".

    Returns `score` (normalised) with `low`, `high` (95 % over rows), `control`, `p`, `q` and `exact` (NaN where it was not
    patched). Where the ends do not differ more than chance p is 1 (`provenance.warnings`). Raises InputError for pairs of unequal
    length, rows of several lengths, ends that score the same, `by` that does not fit the site, and a budget too small for one row;
    SiteError where the model lacks the site.
    """
    pairs = make_pairs(model, clean, corrupted, direction)
    cells = _Cells.of(pairs, site, by)
    ends, before = pairs.ends(metric), model.forwards
    moments = RowMoments(cells.size, n_random)
    per_token = 8 * model.n_layers * (model.d_mlp if by == "neuron" else model.d_model)
    sign = 1.0 if direction == "noising" else -1.0  # what the change takes away, or brings back
    with progress.task("rows", total=len(pairs.base)) as task:
        for rows in in_groups(model, pairs.base, budget_bytes, per_token=per_token):
            gap = (ends.whole - ends.empty)[rows]
            moments.add_rows(gap)
            real, random = cells.estimates(pairs, metric, rows, n_random, seed)
            moments.add(slice(None), -sign * real, gap, random)
            task.advance(len(rows))
    found = _columns(moments, bool(ends.warnings))
    exact, record = _exact(pairs, cells, metric, ends, found["score"], n_exact, seed)
    warnings = [*ends.warnings]
    if record.get("flagged"):
        warnings.append(
            f"estimates are {record['median_ratio']:.2g} of the exact effects (median of the largest): a softmax is saturated or "
            "paths are redundant; patch exactly what matters"
        )
    data = xr.Dataset(
        {name: (AXES[by], values.reshape(cells.shape)) for name, values in {**found, "exact": exact}.items()},
        coords=cells.coordinates,
    )
    settings = {"site": site, "by": by, "direction": direction, "metric": metric.name, "calibration": record}
    provenance = Provenance(
        "attribution patching", len(pairs.base), seed, model=model.name, revision=model.revision, settings=settings,
        passes=round(model.forwards - before) + len(pairs.base), causal="none", warnings=tuple(warnings),
    )  # fmt: skip
    return Scores(data, provenance)


@dataclass(frozen=True)
class _Cells:
    """The cells of one site, in the order of the axes: [layer, (unit,) (position)]."""

    site: str
    by: By
    layers: tuple[int, ...]
    n_units: int
    n_pos: int

    @classmethod
    def of(cls, pairs: Pairs, site: str, by: By) -> "_Cells":
        if by not in FITS or site not in SITES:
            raise InputError(f"by={by!r} of site {site!r} is not known; by is one of {', '.join(FITS)}")
        if SITES[site] not in FITS[by]:
            raise InputError(
                f"by={by!r} needs a site of {' or '.join(FITS[by])} kind, and {site} is of {SITES[site]} kind"
            )
        layers = tuple(pairs.model.layers_with(site))
        tap = pairs.model.tap(site, layers[0] if layers else 0)  # says why no layer has it
        n_units = {"position": 0, "neuron": tap.width}.get(by, tap.heads)
        return cls(site, by, layers, int(n_units or 0), pairs.n_pos)

    @property
    def shape(self) -> tuple[int, ...]:
        units = () if self.by == "position" else (self.n_units,)
        return (len(self.layers), *units, *((self.n_pos,) if "position" in AXES[self.by] else ()))

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        sizes = dict(zip(AXES[self.by], self.shape, strict=True))
        return {axis: np.array(self.layers) if axis == "layer" else np.arange(n) for axis, n in sizes.items()}

    def estimates(
        self, pairs: Pairs, metric: Metric, rows: list[int], n_random: int, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change x gradient [row, cell] of some rows, and with random changes [draw, cell], summed over them."""
        places: list[Place] = [(self.site, layer) for layer in self.layers]
        ours = gradients(pairs.model, pairs.base.select(rows), metric, places, rows=rows)
        theirs = gradients(pairs.model, pairs.donor.select(rows), metric, only_values=places, rows=rows)
        real, random = [], []
        for place in places:
            change, grad = (theirs.values[place] - ours.values[place]).float(), ours.grads[place].float()
            real.append(self._summed(change, grad))
            random.append(
                torch.stack([self._summed(c, grad).sum(0) for c in self._stand_ins(change, n_random, seed, rows[0])])
            )
        flat = torch.stack(real, 1).flatten(1).double().cpu().numpy()
        null = torch.stack(random, 1).flatten(1).double().cpu().numpy() if n_random else np.zeros((0, self.size))
        return flat, null

    def _stand_ins(self, change: Tensor, n: int, seed: int, first_row: int) -> list[Tensor]:
        """Random changes as long as the real one in every cell: turned, all rows alike (of a neuron: with a random sign a row)."""
        if self.by != "neuron":
            return [rotated(change, random_signs((), change.shape[-1], seed * 1_000_003 + draw)) for draw in range(n)]
        generator = torch.Generator().manual_seed(seed * 1_000_003 + first_row)
        signs = torch.randint(0, 2, (n, len(change), 1, change.shape[-1]), generator=generator) * 2 - 1
        return [change * sign.to(change) for sign in signs]

    def _summed(self, change: Tensor, grad: Tensor) -> Tensor:
        """[row, (unit,) (position)]."""
        product = change * grad  # [row, pos, (head,) width]
        if self.by == "neuron":
            return product.sum(1)
        cell = product.sum(-1)
        if self.by == "position":
            return cell
        return cell.sum(1) if self.by == "head" else cell.transpose(1, 2)

    def edit(self, cell: int, donor: Tensor) -> Edit:
        """The exact patch of one cell, with values of all tokens of the donor rows [token, layer, …]."""
        layer, *rest = (int(i) for i in np.unravel_index(cell, self.shape))
        values = donor[:, layer].unflatten(0, (-1, self.n_pos))
        unit = () if self.by == "position" else (rest[0],)
        if unit:
            values = values[:, :, unit[0] : unit[0] + 1]
        if "position" not in AXES[self.by]:
            return Edit(Site(self.site, self.layers[layer], unit), "set", values.flatten(0, 1), positions="all")
        return Edit(Site(self.site, self.layers[layer], unit), "set", values[:, rest[-1]], positions=(rest[-1],))


def _columns(moments: RowMoments, no_behaviour: bool) -> dict[str, np.ndarray]:
    low, high = moments.interval()
    p = np.ones(moments.size) if no_behaviour else moments.p()
    return {
        "score": moments.share(), "low": low, "high": high, "control": moments.control(), "p": p, "q": q_of_moved(p)
    }  # fmt: skip


def _exact(  # noqa: PLR0913 - private half of the method
    pairs: Pairs, cells: _Cells, metric: Metric, ends: Ends, score: np.ndarray, n_exact: int, seed: int
) -> tuple[np.ndarray, dict]:
    """Exact effects of the largest estimates and of as many others, and how far the estimates agree with them."""
    exact = np.full(cells.size, np.nan)
    if not n_exact:
        return exact, {}
    order = np.argsort(-np.abs(score), kind="stable")
    others = np.random.default_rng(seed).permutation(order[n_exact:])[:n_exact]
    chosen = np.concatenate([order[:n_exact], others])
    _, donor = pairs.donated(cells.site, cells.layers)
    found = sweep(pairs.model, pairs.base, [cells.edit(int(cell), donor) for cell in chosen], metric)
    exact[chosen] = pairs.effect(ends, found.values)
    return exact, agreement(score[chosen], exact[chosen]).to_record()
