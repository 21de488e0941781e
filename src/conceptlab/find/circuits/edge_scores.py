"""First-order scores of every edge at once: what the sender writes otherwise, times the metric's gradient at the receiver's
input.

Shared by `edge_attribution` and `edge_attribution_ig`. Senders and receivers of a layer are stacked, so that all its edges are
one product; nothing is made per edge. Only positions at which anything is written otherwise are looked at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence.agreement import agreement
from conceptlab.evidence.moderated import q_of_moved
from conceptlab.evidence.row_moments import RowMoments
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.measure.circuits.ends import Ends
from conceptlab.model.batch import Batch
from conceptlab.model.edge_gradients import ReceiverGradients, receiver_gradients
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.edge_run import edge_run
from conceptlab.model.gradients import gradients, in_groups
from conceptlab.model.metric import Metric
from conceptlab.model.sender_changes import Values, changed_positions, sender_changes, sender_places
from conceptlab.results import Circuit, GraphShape, Provenance
from conceptlab.runs import SILENT, Progress, Task

if TYPE_CHECKING:
    from conceptlab.model import Model

RANK = 4  # directions in a draw of the null
ROUNDING = 1e-6  # of the metric's change: all that a gradient of 0 leaves
TOO_SMALL = (
    "scores are {:.2g} of their exact effects (median): a softmax is saturated or paths are redundant; believe their ranks at "
    "most, or integrate gradients"
)
# clean and corrupted streams that enter the first block -> the streams [point, row, pos, d_model] at which gradients are taken
Points = Callable[[Tensor, Tensor], Tensor]


@dataclass(eq=False)
class EdgeScores:
    """Sums over rows of every edge's score (`moments`, in the order of the graph's edges), the metric [row] of both runs, and the
    sum of the embedding's edges [row]: what the scores say the whole change does."""

    shape: GraphShape
    moments: RowMoments
    clean: np.ndarray
    corrupted: np.ndarray
    embedding: np.ndarray
    largest_gradient: float = 0.0
    forwards: float = 0.0
    backwards: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def ends(self) -> Ends:
        """The metric of both runs."""
        return Ends(self.clean, self.corrupted)


def score_edges(  # noqa: PLR0913 - one experiment
    model: "Model",
    clean: Batch,
    corrupted: Batch,
    metric: Metric,
    *,
    points: Points | None = None,
    n_points: int = 1,
    n_random: int = 10,
    budget_bytes: int | None = None,
    tokens_at_once: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> EdgeScores:
    """Score every edge on every pair. `points` None takes gradients on the clean run alone."""
    shape, n, before = graph_of(model), len(clean), model.forwards
    if metric.site is not None:
        raise InputError(
            f"{metric.name} reads {metric.site}; a graph of edges ends at the logits, so give a metric of the logits"
        )
    if clean.ids == corrupted.ids:
        raise InputError(
            "clean and corrupted texts are the same, so no edge carries anything else; corrupt what the answer depends on"
        )
    found = EdgeScores(shape, RowMoments(shape.n_edges, n_random), np.zeros(n), np.zeros(n), np.zeros(n))
    stacked = 4 * model.d_model * (len(shape.senders) + 2 * (2 * shape.n_kv_heads + shape.n_heads + 1))
    groups = in_groups(model, clean, budget_bytes, per_token=stacked, copies=max(n_points, 2))
    together = n_points
    if tokens_at_once is not None:  # a gradient runs the whole model both ways: one row and one point are a piece
        together, groups = 1, [[row] for rows in groups for row in rows]
    with progress.task("pairs", total=n) as task:
        for rows in groups:
            _score_group(
                model, (clean.select(rows), corrupted.select(rows)), metric, rows, points, together, found, seed, task
            )
            found.backwards += n_points * len(rows)
            task.advance(len(rows))
    found.forwards = model.forwards - before
    if found.largest_gradient == 0.0 or _only_rounding(found.moments):
        raise InputError(
            f"the gradient of {metric.name} is 0 on every clean row (a divergence from the clean run has none there), so no "
            "edge has a score; use a logit difference, or integrate gradients (edge_attribution_ig)"
        )
    return found


def _only_rounding(moments: RowMoments) -> bool:
    """Whether no edge has a score beside the metric's change."""
    return bool(np.abs(moments.total).max() <= ROUNDING * abs(moments.gap_total))


def _score_group(  # noqa: PLR0913 - private half of score_edges
    model: "Model",
    pair: tuple[Batch, Batch],
    metric: Metric,
    rows: list[int],
    points: Points | None,
    together: int,
    found: EdgeScores,
    seed: int,
    task: Task,
) -> None:
    places, (ours, theirs) = sender_places(found.shape), pair
    if points is None:
        other = gradients(model, theirs, metric, only_values=places, rows=rows)
        run = receiver_gradients(model, ours, metric, found.shape, rows=rows, only_values=places)
        values: tuple[Values, Values] = (run.values, other.values)
        scored = run.metric[0], other.metric
        task.advance(0)
    else:
        both = gradients(model, Batch(ours.ids + theirs.ids), metric, only_values=places, rows=rows * 2)
        halves = {place: value.chunk(2) for place, value in both.values.items()}
        values = tuple({place: half[i] for place, half in halves.items()} for i in (0, 1))  # type: ignore[assignment]
        scored = both.metric.chunk(2)
        task.advance(0)
        at = points(values[0]["embed", None], values[1]["embed", None])
        run = _MeanGradients([])
        for few in at.split(together):
            run.parts.append(receiver_gradients(model, ours, metric, found.shape, points=few, rows=rows))
            task.advance(0)
    found.clean[rows], found.corrupted[rows] = (m.cpu().numpy() for m in scored)
    keep = changed_positions(*values)
    changes = sender_changes(model, found.shape, *values, keep)
    found.moments.add_rows(found.clean[rows] - found.corrupted[rows])
    _add(run, changes, keep, rows, found, seed, task)


@dataclass(frozen=True, eq=False)
class _MeanGradients:
    """Gradients that are the mean of those of several parts of the points."""

    parts: list[ReceiverGradients]

    def layers(self, keep: Tensor) -> Iterator[tuple[int, Tensor]]:
        """As those of one part."""
        if len(self.parts) == 1:
            yield from self.parts[0].layers(keep)
            return
        weights = [part.n_points / sum(p.n_points for p in self.parts) for part in self.parts]
        for layers in zip(*(part.layers(keep) for part in self.parts), strict=True):
            yield layers[0][0], sum((w * grads for w, (_, grads) in zip(weights, layers, strict=True)), torch.zeros(()))


def _add(  # noqa: PLR0913 - private half of score_edges
    run: "ReceiverGradients | _MeanGradients",
    changes: Tensor,
    keep: Tensor,
    rows: list[int],
    found: EdgeScores,
    seed: int,
    task: Task,
) -> None:
    """Score the edges of every layer and add them up. A positive score says that corrupting the edge lowers the metric."""
    shape, gap, draws = (
        found.shape,
        found.clean[rows] - found.corrupted[rows],
        Turned.of(changes.shape[-1], found.moments.n_random, seed),
    )
    written, turned = changes.transpose(0, 1).flatten(2), draws.seen(changes, "sender")
    start = 0
    for _, grads in run.layers(keep):
        task.advance(0)  # nothing is open here: others may go first
        n_before = shape.n_before[start : start + len(grads)]
        n_most = int(n_before.max())
        found.largest_gradient = max(found.largest_gradient, float(grads.abs().max()) if grads.numel() else 0.0)
        scores = torch.bmm(grads.transpose(0, 1).flatten(2), written[:, :n_most].transpose(1, 2))
        random = torch.bmm(draws.seen(grads, "receiver"), turned[:, :n_most].transpose(1, 2))
        values, null = -scores.cpu().numpy(), random.double().cpu().numpy()
        found.embedding[rows] += values[:, :, 0].sum(1)
        for n in np.unique(n_before):
            mine = np.flatnonzero(n_before == n)
            few, first = slice(int(mine[0]), int(mine[-1]) + 1), int(shape.offsets[start + mine[0]])
            at = slice(first, first + len(mine) * int(n))
            found.moments.add(
                at,
                values[:, few, :n].reshape(len(rows), -1),
                gap,
                null[:, few, :n].reshape(len(null), len(mine) * int(n)),
            )
        start += len(grads)


@dataclass(frozen=True, eq=False)
class Turned:
    """Random directions [draw * RANK, d_model], one set for senders and one for receivers, the same for all rows and edges.

    The product of a change seen along the one and a gradient seen along the other has, over draws, mean 0 and the variance of the
    product with the change turned by a random rotation (the squared norm of sum over tokens of change x gradient, divided by
    d_model), at a small share of its cost.
    """

    sender: Tensor
    receiver: Tensor
    n_draws: int

    @classmethod
    def of(cls, width: int, n_draws: int, seed: int) -> "Turned":
        """Draw them."""
        generator = torch.Generator().manual_seed(seed)
        scale = (RANK * width) ** -0.25
        sender, receiver = (torch.randn(n_draws * RANK, width, generator=generator) * scale for _ in "12")
        return cls(sender, receiver, n_draws)

    def seen(self, vectors: Tensor, side: Literal["sender", "receiver"]) -> Tensor:
        """`vectors` [node, row, pos, d_model] along the directions, [draw, node, row * pos * RANK]."""
        along = (vectors @ getattr(self, side).to(vectors).T).unflatten(-1, (self.n_draws, RANK))
        return along.movedim(-2, 0).flatten(2)


def circuit_of(  # noqa: PLR0913 - one result, fully described
    model: "Model",
    found: EdgeScores,
    metric: Metric,
    method: str,
    settings: dict[str, object],
    *,
    pair: tuple[Batch, Batch],
    n_exact: int = 0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Circuit:
    """The scores as a Circuit that holds every edge; the `n_exact` largest are patched exactly beside."""
    shape, moments, ends = found.shape, found.moments, found.ends
    source, target = shape.edges_of(np.arange(shape.n_edges))
    none = np.full(shape.n_edges, np.nan)
    close = np.isnan(ends.share(ends.whole[None])[0])
    share, control = (none, none) if close else (moments.share(), moments.control())
    low, high = (none, none) if close else moments.interval()
    p = np.ones(shape.n_edges) if ends.warnings else moments.p()
    exact, passes, warnings = none.copy(), found.forwards + found.backwards, [*ends.warnings, *found.warnings]
    if n_exact and not close:
        chosen = np.argsort(-np.abs(share), kind="stable")[:n_exact]
        run = edge_run(model, *pair)
        edges = Circuit(shape, source[chosen], target[chosen], share[chosen], Provenance("strongest edges", 1, seed))
        exact[chosen] = exact_edges(run, metric, edges, n_random=0, seed=seed, progress=progress).weights
        record = agreement(share[chosen], exact[chosen])
        settings, passes = {**settings, "calibration": record.to_record()}, passes + run.passes
        warnings += [f"the strongest edges' {TOO_SMALL.format(record.median_ratio)}"] if record.flagged else []
    settings = {**settings, "gap": moments.gap, "forwards": found.forwards, "backwards": found.backwards}
    provenance = Provenance(
        method, len(ends.whole), seed, model=model.name, revision=model.revision, settings=settings, passes=round(passes),
        causal="none", warnings=tuple(warnings),
    )  # fmt: skip
    columns = {"low": low, "high": high, "exact": exact, "control": control, "p": p, "q": q_of_moved(p)}
    return Circuit(shape, source, target, share, provenance, metric.name, **columns)
