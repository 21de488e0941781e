"""Run any part of a model's graph exactly: chosen edges carry what their senders write, all others what a corrupted run wrote.

What a receiver (a head's query, key or value, an MLP, the logits) reads is the sum of what its senders wrote. In the run of a
circuit each edge of the circuit carries what its sender writes in that run, each other edge what the sender wrote on the corrupted
row (path patching of every edge at once). All edges give the plain clean run, no edge the plain corrupted run. Nodes compute with
the model's own code: blocks are called as they are, and heads are mixed by the model's attention function.

Three choices where the model does not say: a head is computed as if all heads of its layer read its input (a norm over the queries
of all heads, as in OLMo-2, needs that); where a sublayer norms its own output (Gemma-2), a head is added with the scale of the
clean run, and one whose inputs are all corrupted with that of the corrupted run; biases belong to no sender and are always there.

Cost of a circuit: the nodes between the first block that differs and the logits, the distinct inputs of a layer's attention apart.
Memory: senders x rows x pos x d_model floats a circuit, within a budget.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError, SiteError
from conceptlab.model.batch import Batch
from conceptlab.model.edge_graph import EXACT, ROUGH, graph_of
from conceptlab.model.edge_rows import Ablation, Rows, groups_of, record_rows, row_bytes
from conceptlab.model.edge_state import Moved, State, into
from conceptlab.model.metric import Metric
from conceptlab.model.model import Model, Texts
from conceptlab.model.sums import matches
from conceptlab.model.sweep.clean import Kept
from conceptlab.model.sweep.plan import FOUR, bytes_per_token, default_budget
from conceptlab.model.sweep.tail import read_metric
from conceptlab.results import Circuit, GraphShape
from conceptlab.runs import SILENT, Progress


@dataclass(eq=False)
class EdgeRun:
    """A model with clean and corrupted rows, on which circuits are run. Make one with `edge_run`.

    `passes` counts blocks that ran, in forwards of one row (half a block each for attention and MLP). `between` is called between
    two blocks, with no hook on the model: there the work may give way to others, or be stopped by what `between` raises.
    """

    model: Model
    clean: Batch
    corrupted: Batch
    shape: GraphShape
    ablation: Ablation
    budget_bytes: int
    groups: tuple[tuple[int, ...], ...]
    passes: float = 0.0
    tokens_at_once: int | None = None
    between: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._kept: dict[int, Rows] = {}
        lengths = [len(self.clean.ids[rows[0]]) for rows in self.groups]
        each = [row_bytes(self.model, self.shape, n_pos) for n_pos in lengths]
        held = sum(n * len(rows) for n, rows in zip(each, self.groups, strict=True))
        self._keeps = held <= self.budget_bytes / 2

    @property
    def n_rows(self) -> int:
        """Rows of the batch."""
        return len(self.clean)

    def swapped(self) -> "EdgeRun":
        """The same with clean and corrupted rows exchanged: taking edges out there is denoising here."""
        return EdgeRun(
            self.model, self.corrupted, self.clean, self.shape, self.ablation, self.budget_bytes, self.groups,
            tokens_at_once=self.tokens_at_once, between=self.between,
        )  # fmt: skip

    def differs(self) -> np.ndarray:
        """Which edges [edge] carry another value in the corrupted run than in the clean one, on any row."""
        senders = np.zeros(len(self.shape.senders), dtype=bool)
        for number in range(len(self.groups)):
            senders |= self._rows(number).differs
        source, _ = self.shape.edges_of(np.arange(self.shape.n_edges))
        return senders[source]

    def mask(self, *circuits: Circuit) -> np.ndarray:
        """bool [circuit, edge]. Raises InputError for a circuit of another graph."""
        masks = np.zeros((len(circuits), self.shape.n_edges), dtype=bool)
        for row, circuit in zip(masks, circuits, strict=True):
            if circuit.shape != self.shape:
                raise InputError(f"the circuit belongs to {circuit.shape}, and {self.model.name} is {self.shape}")
            row[circuit.edge_numbers] = True
        return masks

    def whole(self, metric: Metric) -> np.ndarray:
        """The metric [row] of the clean run, read through the graph."""
        return self.evaluate(np.ones((1, self.shape.n_edges), dtype=bool), metric)[0]

    def empty(self, metric: Metric) -> np.ndarray:
        """The metric [row] with no edge left: the corrupted run (or nothing but biases where ablation is "zero")."""
        return self.evaluate(np.zeros((1, self.shape.n_edges), dtype=bool), metric)[0]

    def evaluate(
        self, masks: np.ndarray, metric: Metric, *, moved: Moved | None = None, progress: Progress = SILENT
    ) -> np.ndarray:
        """The metric [circuit, row] (float64) of the run of each circuit, given by `masks` [circuit, edge].

        `moved` adds a sender's change, turned at random, to one receiver of each circuit (the control of an edge). Raises
        InputError for masks of another graph, a metric of a site or of other rows, and where a run makes the metric NaN.
        """
        self._check(masks, metric)
        if moved is None:  # circuits that are given twice run once
            _, one, again = np.unique(np.packbits(masks, 1), axis=0, return_index=True, return_inverse=True)
            if len(one) < len(masks):
                return self.evaluate(masks[one], metric, progress=progress)[again.reshape(-1)]
        found = np.empty((len(masks), self.n_rows))
        start = _first_layer(self.shape, masks, moved)
        order = np.argsort(start, kind="stable")
        with progress.task("circuits", total=len(masks) * len(self.groups)) as task:
            for number in range(len(self.groups)):
                rows = self._rows(number)
                for few in self._passes(rows, order, start):
                    part = None if moved is None else moved.select(few)
                    values = self._pass(rows, masks[few], int(start[few].min()), part, metric)
                    found[np.ix_(few, np.array(rows.numbers))] = values.cpu().numpy()
                    task.advance(len(few))
        if not np.isfinite(found).all():
            circuit, row = (int(i[0]) for i in np.nonzero(~np.isfinite(found)))
            raise InputError(
                f"{metric.name} is not a number in row {row} of circuit {circuit}; look at the model's own logits first"
            )
        return found

    def _check(self, masks: np.ndarray, metric: Metric) -> None:
        if masks.ndim != 2 or masks.shape[1] != self.shape.n_edges or masks.dtype != bool:
            raise InputError(
                f"masks are {masks.dtype} {masks.shape}; this graph needs bool (circuits, {self.shape.n_edges} edges)"
            )
        if metric.site is not None:
            raise InputError(
                f"{metric.name} reads {metric.site}; a circuit ends at the logits, so give a metric of the logits"
            )
        if metric.n_rows not in (None, self.n_rows):
            raise InputError(f"the metric is for {metric.n_rows} rows, and there are {self.n_rows} clean rows")
        shortest = min(self.clean.lengths)
        if metric.position != "last" and not -shortest <= metric.position < shortest:
            raise InputError(
                f"{metric.name} reads position {metric.position}, and the shortest row has {shortest} tokens"
            )

    def _passes(self, rows: Rows, order: np.ndarray, start: np.ndarray) -> list[np.ndarray]:
        """Circuits that run together: alike in where they start, and as many as the budget holds."""
        n_senders, layer = len(self.shape.senders), self.shape.senders.layer
        passes, begin, most = [], 0, self.tokens_at_once or np.iinfo(np.int64).max
        while begin < len(order):
            live = n_senders - int(np.searchsorted(layer, start[order[begin]]))
            n_row, n_pos, d_model = rows.delta.shape[1:]
            each = FOUR * n_row * n_pos * (live * d_model + 6 * self.shape.n_heads * self.model.stack.d_head)
            at_once = max(1, min(int(self.budget_bytes / 4 // each), most // (n_row * n_pos)))
            same = start[order[begin:]] <= start[order[begin]] + max(1, self.shape.n_layers // 8)
            end = begin + min(at_once, int(same.sum()))
            passes.append(order[begin:end])
            begin = end
        return passes

    def _pass(  # noqa: PLR0913 - one pass
        self, rows: Rows, masks: np.ndarray, start: int, moved: Moved | None, metric: Metric, *, fresh: bool = False
    ) -> Tensor:
        state = self._state(rows, masks, start, moved, fresh=fresh)
        n_row, n_pos = rows.delta.shape[1:3]
        at = n_pos - 1 if metric.position == "last" else metric.position % n_pos
        ends = state.ends(at).flatten(0, 1).to(rows.clean.run.streams.dtype)
        index = torch.arange(n_row, device=ends.device).repeat(len(masks))
        source = torch.tensor(rows.numbers, device=ends.device)[index]
        return read_metric(Kept(rows.clean.run), metric, ends, index, source, at).unflatten(0, (len(masks), n_row))

    def _state(self, rows: Rows, masks: np.ndarray, start: int, moved: Moved | None, *, fresh: bool = False) -> State:
        tokens = max(1, int(self.budget_bytes / 4 // bytes_per_token(self.model)))
        state = State(rows, masks, start, moved, tokens, fresh=fresh)
        before = rows.halves.rows_run
        for layer in state.layers:
            with rows.halves.open():
                state.block(layer)
            self.between()
        ran = (rows.halves.rows_run - before) / (2 * self.shape.n_layers)
        self.passes += ran
        self.model.forwards += ran
        return state

    def _rows(self, number: int) -> Rows:
        if number in self._kept:
            return self._kept[number]
        rows = self._record(self.groups[number])
        if self._keeps:
            self._kept[number] = rows
        return rows

    def _record(self, numbers: tuple[int, ...]) -> Rows:
        other = None if self.ablation == "zero" else self.corrupted.select(numbers)
        self.passes += len(numbers) * (1 if other is None else 2)
        return record_rows(self.model, self.clean.select(numbers), other, numbers, self.shape, self.between)

    def verify(self) -> float:
        """The largest relative error of the whole graph against the clean run on the first row, every node computed afresh.

        Raises SiteError where it is more than rounding, or a stream is not the sum of its senders, naming the layer.
        """
        rows = self._record(self.groups[0][:1])
        dtype = rows.clean.run.streams.dtype
        limit = EXACT if dtype in (torch.float32, torch.float64) else ROUGH
        masks = np.ones((1, self.shape.n_edges), dtype=bool)
        self._sums_hold(rows, limit)
        state = self._state(rows, masks, 0, None, fresh=True)
        found = [(state.ends(at)[0], rows.clean.pre[-1][:, at]) for at in range(rows.delta.shape[2])]
        worst = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in found)
        if worst > 10 * limit:
            raise SiteError(
                f"{self.model.name}: its blocks, put together again from heads and MLPs, miss its own stream by {worst:.1e}, "
                "so edges cannot be cut exactly; sites can still be patched whole"
            )
        return worst

    def _sums_hold(self, rows: Rows, limit: float) -> None:
        """Every stream of the clean run is that of the corrupted run plus what the senders below wrote otherwise."""
        first = np.searchsorted(self.shape.senders.layer, np.arange(self.shape.n_layers + 1))
        for layer, n in enumerate(first.tolist()):
            total = rows.reference.pre[layer] + rows.delta[:n].sum(0)
            if not matches(total, rows.clean.pre[layer], limit):
                raise SiteError(
                    f"{self.model.name}: the stream before block {layer} is not the sum of what embedding, heads and MLPs "
                    "wrote (a bias before a sublayer's own norm?), so edges cannot be cut"
                )


def edge_run(  # noqa: PLR0913 - what runs, and how
    model: Model,
    clean: Texts,
    corrupted: Texts,
    *,
    ablation: Ablation = "resample",
    budget_bytes: int | None = None,
    tokens_at_once: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> EdgeRun:
    """Prepare pairs of rows (row by row as many tokens) and try the graph on the first of them.

    Edges outside a circuit carry the corrupted row's value ("resample") or nothing ("zero"; then `corrupted` only fixes the pairs).
    At most `tokens_at_once` tokens run together, or one row (None: as many as the budget holds); `between` is that of `EdgeRun`.
    Raises InputError where pairs differ in length or a budget is too small for one row, SiteError where the model's pieces do not
    add up (post-norm encoders, state-space layers, attention that bypasses transformers' interface).
    """
    shape = graph_of(model)
    ours, theirs = model.encode(clean), model.encode(corrupted)
    if len(ours) != len(theirs) or not len(ours):
        raise InputError(
            f"{len(ours)} clean rows came with {len(theirs)} corrupted ones; give one corrupted row for each"
        )
    uneven = [r for r, (a, b) in enumerate(zip(ours.lengths, theirs.lengths, strict=True)) if a != b]
    if uneven:
        row = uneven[0]
        raise InputError(
            f"row {row}: the clean text has {ours.lengths[row]} tokens and the corrupted one {theirs.lengths[row]}; pairs "
            "must align token by token"
        )
    budget = default_budget() if budget_bytes is None else budget_bytes
    groups = groups_of(model, ours, shape, budget, tokens_at_once)
    run = EdgeRun(model, ours, theirs, shape, ablation, budget, groups, tokens_at_once=tokens_at_once, between=between)
    run.verify()
    return run


def _first_layer(shape: GraphShape, masks: np.ndarray, moved: Moved | None) -> np.ndarray:
    """The first block [circuit] with a receiver that lacks an edge or is moved (the number of blocks: only the logits do)."""
    start = np.full(len(masks), shape.n_layers)
    for receiver in range(len(shape.receivers) - 1, -1, -1):
        lacks = ~into(shape, masks, receiver).all(1)
        if moved is not None:
            lacks |= moved.target == receiver
        start[lacks] = shape.receivers.layer[receiver]
    return start
