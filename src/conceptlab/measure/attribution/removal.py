"""Senders taken out: their outputs set to what they are on a reference, everything above run again (exact sweeps)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.model.batch import Batch
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import Metric
from conceptlab.model.split_sources import Written, record_split
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, GraphShape, Site

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.model.model import Texts

Against = Literal["mean", "paired"]


@dataclass(eq=False)
class Reference:
    """Clean texts beside what each sender is set to: 0 (`partners` None), its mean over partners of equal length at every position,
    or, `paired`, what it is in the row's own partner. Make one with `reference_of`."""

    model: "Model"
    clean: Batch
    partners: Batch | None
    against: Against
    _known: dict[tuple[int, ...], Written] = field(default_factory=dict)

    @property
    def groups(self) -> list[list[int]]:
        """Row numbers in groups of one length."""
        return rows_by_length(self.clean)

    def base(self, rows: Sequence[int]) -> Written:
        """What each sender is set to, for rows of one length. Cost: one forward of the partners, the first time."""
        if tuple(rows) not in self._known:
            self._known[tuple(rows)] = self._recorded(list(rows))
        return self._known[tuple(rows)]

    def _recorded(self, rows: list[int]) -> Written:
        if self.partners is None:
            return _nothing(record_split(self.model, self.clean.select(rows[:1]))[1])
        if self.against == "paired":
            return record_split(self.model, self.partners.select(rows))[1]
        wanted = len(self.clean.ids[rows[0]])
        like = [i for i, n in enumerate(self.partners.lengths) if n == wanted]
        if not like:
            raise InputError(f"no reference text has {wanted} tokens, as row {rows[0]} has; add some of that length")
        return record_split(self.model, self.partners.select(like))[1].mean()


def reference_of(model: "Model", clean: "Texts", reference: "Texts | None", against: Against = "mean") -> Reference:
    """Encode both. Raises InputError for an unknown `against` and for paired texts of other lengths than their rows."""
    if against not in ("mean", "paired"):
        raise InputError(f"against={against!r} is not known; use 'mean' or 'paired'")
    texts, partners = model.encode(clean), None if reference is None else model.encode(reference)
    if partners is not None and against == "paired" and partners.lengths != texts.lengths:
        raise InputError("paired reference texts need, row by row, as many tokens as the clean ones")
    return Reference(model, texts, partners, against)


def rows_by_length(batch: Batch) -> list[list[int]]:
    """Row numbers in groups of one length."""
    return [[row for row, n in enumerate(batch.lengths) if n == length] for length in sorted(set(batch.lengths))]


def of_rows(metric: Metric, rows: Sequence[int]) -> Metric:
    """The same metric for some of its rows."""
    return metric if metric.tokens is None else replace(metric, tokens=metric.tokens[list(rows)])


def removal_effects(reference: Reference, metric: Metric) -> tuple[np.ndarray, float]:
    """Clean metric minus the metric with each sender at its reference [sender, row], and the cost in forwards of one row.

    The embedding is set in the stream that enters block 0, positions included.
    """
    shape = graph_of(reference.model)

    def alone(base: Written, n_rows: int) -> list[tuple[Edit, ...]]:
        return [(_edit(shape, sender, n_rows, base),) for sender in range(len(shape.senders))]

    values, clean, cost = _swept(reference, metric, alone, len(shape.senders))
    return clean - values, cost


def kept_only(reference: Reference, metric: Metric, sets: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
    """The metric with every head and MLP outside a set at its reference [set, row], and the cost in forwards of one row.

    Each of `sets` is a mask [sender]; the embedding stays as it is.
    """
    shape = graph_of(reference.model)

    def outside(base: Written, n_rows: int) -> list[tuple[Edit, ...]]:
        return [_outside(shape, np.asarray(kept), n_rows, base) for kept in sets]

    values, _, cost = _swept(reference, metric, outside, len(sets))
    return values, cost


def _swept(reference: Reference, metric: Metric, items_of, n_items: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Values [item, row] and the clean metric [row] over groups of one length; an item without edits is the clean run."""
    values, clean, cost = np.zeros((n_items, len(reference.clean))), np.zeros(len(reference.clean)), 0.0
    for rows in reference.groups:
        items = items_of(reference.base(rows), len(rows))
        real = [i for i, item in enumerate(items) if item]
        found = sweep(reference.model, reference.clean.select(rows), [items[i] for i in real], of_rows(metric, rows))
        clean[rows], cost = found.clean, cost + found.passes
        values[:, rows] = found.clean
        values[np.ix_(real, rows)] = found.values
    return values, clean, cost


def _outside(shape: GraphShape, kept: np.ndarray, n_rows: int, base: Written) -> tuple[Edit, ...]:
    """One edit a layer for the heads that are not kept, one for an MLP that is not."""
    at, edits = shape.senders, []
    for layer in range(shape.n_layers):
        heads = tuple(int(h) for h in at.head[~kept & (at.layer == layer) & (at.kind == "head")])
        if heads:
            edits.append(Edit(Site("z", layer, heads), "set", _cells(base.z[layer][:, :, list(heads)], n_rows)))
        if (~kept & (at.layer == layer) & (at.kind == "mlp")).any():
            edits.append(Edit(Site("mlp_out", layer), "set", _cells(base.mlp[layer], n_rows)))
    return tuple(edits)


def _edit(shape: GraphShape, sender: int, n_rows: int, base: Written) -> Edit:
    kind, layer, head = (column[sender] for column in (shape.senders.kind, shape.senders.layer, shape.senders.head))
    if kind == "embed":
        return Edit(Site("resid_pre", 0), "set", _cells(base.embed, n_rows))
    if kind == "mlp":
        return Edit(Site("mlp_out", int(layer)), "set", _cells(base.mlp[int(layer)], n_rows))
    value = base.z[int(layer)][:, :, [int(head)]]
    return Edit(Site("z", int(layer), (int(head),)), "set", _cells(value, n_rows))


def _cells(value: Tensor, n_rows: int) -> Tensor:
    """One value for every edited cell [row * pos, ...]."""
    every = value if len(value) == n_rows else value.expand(n_rows, *value.shape[1:])
    return torch.flatten(every, 0, 1)


def _nothing(written: Written) -> Written:
    """A reference on which every sender writes 0."""
    z, mlp = ({layer: torch.zeros_like(t) for layer, t in part.items()} for part in (written.z, written.mlp))
    return Written(torch.zeros_like(written.embed), z, mlp)
