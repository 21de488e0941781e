"""The gradient of a metric at what every receiver of the model's graph reads from the stream, from one backward.

A receiver is a head's query, key or value input (key and value per key/value head), an MLP, or the logits; its gradient is that
of a copy of the stream which it alone reads, before its norm. The one backward gives the gradient at the outputs of the
projections, whose columns each serve one head: the rest is one product with the projection's matrix for all heads, and the norm
read backwards. The MLP's share is what is left of the block's gradient. Where a block has no such form (`attention_reading`),
its part before attention is run backwards once per head. Both ways were held against each other and against finite differences.

`points` are streams that enter the first block, one after the other in one batch; gradients are means over them.
Cost: that of `gradients` on points x rows, plus about heads x pos x d_head x d_model products a layer whatever the points.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.attention_reading import KINDS, Columns, Reading, readings
from conceptlab.model.batch import Batch
from conceptlab.model.gradients import Gradients, Place, gradients, kept_positions
from conceptlab.model.instrument import StopForward
from conceptlab.model.metric import Metric
from conceptlab.model.model import Model
from conceptlab.model.norm_pullback import NormPullback, no_pullback, norm_pullback
from conceptlab.model.output_map import projection
from conceptlab.model.side_inputs import Side, recording
from conceptlab.model.tap import Tap
from conceptlab.results import GraphShape

Kept = slice | Tensor  # positions
NORMED = "normed"  # what the projections read
EXACT, ROUGH = 1e-3, 5e-2  # of the sum over heads against the block's own gradient, by precision


@dataclass(eq=False)
class ReceiverGradients:
    """`metric` [point, row]; `values` [point * row, pos, ...] of the places asked for; `layers()` gives the receivers'
    gradients."""

    model: Model
    shape: GraphShape
    n_points: int
    metric: Tensor
    found: Gradients
    ways: tuple[Reading | str, ...]
    taps: dict[Place, Tap]
    sides: list[Side | None]

    @property
    def values(self):
        """What stood at the places that were asked for."""
        return self.found.values

    def layers(self, keep: Tensor | None = None) -> Iterator[tuple[int, Tensor]]:
        """(layer, [receiver, row, pos, d_model]), float32, receivers in the graph's order (the last item holds the logits alone).

        `keep` [pos] leaves only some positions.
        """
        at = slice(None) if keep is None else kept_positions(keep)
        for layer in range(self.shape.n_layers):
            yield layer, self._block(layer, at)
        yield self.shape.n_layers, self._mean(self._grad("resid_post", self.shape.n_layers - 1), at)[None]

    def _grad(self, site: str, layer: int) -> Tensor:
        return self.found.grads[site, layer]

    def _mean(self, grad: Tensor, keep: Kept) -> Tensor:
        """Mean over points at the kept positions [row, pos, d_model]."""
        return grad[:, keep].float().unflatten(0, (self.n_points, -1)).mean(0)

    def _block(self, layer: int, keep: Kept) -> Tensor:
        above = ("resid_pre", layer + 1) if layer + 1 < self.shape.n_layers else ("resid_post", layer)
        before, after = self._mean(self._grad("resid_pre", layer), keep), self._mean(self._grad(*above), keep)
        has_mlp = layer not in self.shape.attention_only
        n_heads = self.shape.n_heads + 2 * self.shape.n_kv_heads
        out = before.new_empty(n_heads + has_mlp, *before.shape)
        self._heads(layer, keep, out[:n_heads])
        if self.shape.parallel:
            total = out[:n_heads].sum(0)
            if has_mlp:
                out[-1] = before - after - total
            return out
        middle = self._mean(self._grad("attn_out", layer), keep)
        if has_mlp:
            out[-1] = middle - after
        self._adds_up(layer, out[:n_heads], before - middle, before)
        return out

    def _adds_up(self, layer: int, heads: Tensor, want: Tensor, scale: Tensor) -> None:
        """Tried at the last position: the heads' gradients are all that the stream before attention has."""
        error = (heads[:, :, -1].sum(0) - want[:, -1]).norm()
        exact = self.found.values["resid_pre", layer].dtype in (torch.float32, torch.float64)
        if error > (EXACT if exact else ROUGH) * (want[:, -1].norm() + 0.1 * scale[:, -1].norm()) + 1e-30:
            raise SiteError(
                f"{self.model.name}: in block {layer} more than the heads' queries, keys, values and the MLP reads the stream, so "
                "gradients of edges do not add up"
            )

    def _heads(self, layer: int, keep: Kept, out: Tensor) -> None:
        way = self.ways[layer]
        if not isinstance(way, str) and self._by_columns(layer, way, keep, out):
            return
        self._by_backward(layer, keep, out)

    # -- through the projections' columns ---------------------------------------------------------------------------
    def _by_columns(self, layer: int, way: Reading, keep: Kept, out: Tensor) -> bool:
        """Fill `out` [receiver, row, pos, d_model]; False where the norm has another form than it seemed."""

        def tokens(tensor: Tensor) -> Tensor:
            return tensor[:, keep].flatten(0, 1)

        stream = tokens(self.values["resid_pre", layer])
        norm = (
            no_pullback(stream.float())
            if way.norm is None
            else norm_pullback(way.norm, stream, tokens(self.values[NORMED, layer]))
        )
        if norm is None:
            return False
        made = [self.found.values[f"projection{i}", layer] for i in range(len(way.projections))]
        grads = [self.found.grads[f"projection{i}", layer] for i in range(len(way.projections))]
        maps = [projection(tap.module, norm.gain.shape[0]) for tap in way.projections]
        along, start = [], 0
        for kind in KINDS:
            columns = way.columns[kind]
            i, n = columns.projection, len(columns.index)
            matrix, bias = maps[i]
            grad = columns.cut(tokens(grads[i])).float()
            weights = columns.cut(matrix).float().transpose(1, 2)
            scaled = (grad * norm.a[:, None]).unflatten(1, (self.n_points, -1)).mean(1)
            torch.bmm(scaled, weights, out=out[start : start + n].flatten(1, 2))
            if not norm.is_identity:
                still = columns.cut(norm.bias @ matrix.float() + bias.float())[:, None]
                along.append((grad * (columns.cut(tokens(made[i])).float() - still)).sum(-1))
            start += n
        if not norm.is_identity:
            _through(norm, out.flatten(1, 2), torch.cat(along), self.n_points)
        return True

    # -- through the block's own backward ---------------------------------------------------------------------------
    def _by_backward(self, layer: int, keep: Kept, out: Tensor) -> None:
        stream = self.values["resid_pre", layer].clone()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = stream.requires_grad_()
            qkv = _attention_inputs(self.model, self.sides, layer, leaf.clone())
        start = 0
        for kind, value in zip(KINDS, qkv, strict=True):
            grad = self._grad(kind, layer).transpose(1, 2)
            for unit in range(value.shape[1]):
                only = torch.zeros_like(value)
                only[:, unit] = grad[:, unit]
                (found,) = torch.autograd.grad(value, leaf, only, retain_graph=True)
                out[start + unit] = self._mean(found, keep)
            start += value.shape[1]


def _through(norm: NormPullback, out: Tensor, along: Tensor, n_points: int) -> None:
    """Apply the norm's derivative to `out` [receiver, token, d_model] in place, which holds the mean over points of a * (W g).

    `along` [receiver, point * token] is a * <x, gain * W g>, read off the projections' outputs.
    """
    out.mul_(norm.gain)
    if norm.centred:
        out.sub_(out.mean(-1, keepdim=True))
    share = along * (norm.b / norm.a.clamp_min(1e-30)) / n_points
    if n_points == 1:
        out.addcmul_(share[..., None], norm.x, value=-1)
        return
    points = norm.x.unflatten(0, (n_points, -1)).transpose(0, 1)
    of_token = share.unflatten(1, (n_points, -1)).permute(2, 0, 1)
    out.sub_(torch.bmm(of_token, points).transpose(0, 1))


def _attention_inputs(
    model: Model, sides: Sequence[Side | None], layer: int, stream: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of one block on `stream`, part of the graph."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    block, side, attention = model.stack.blocks[layer], sides[layer], model.tap("q", layer).module

    def handler(module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        if module is not attention:
            return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        seen.append((call.q, call.k, call.v))
        raise StopForward

    try:
        with handle_attention(model.runner, handler):
            side.call(block.module, block.taps["resid_pre"].key, stream)  # type: ignore[union-attr]
    except StopForward:
        pass
    return seen[0]


def receiver_gradients(  # noqa: PLR0913 - what runs, where
    model: Model,
    batch: Batch,
    metric: Metric,
    shape: GraphShape,
    *,
    points: Tensor | None = None,
    rows: Sequence[int] | None = None,
    only_values: Sequence[Place] = (),
    way: str = "columns",
) -> ReceiverGradients:
    """Run rows of one length once forward and backward. `points` [point, row, pos, d_model] are streams that enter the first
    block (None: the rows' own); `only_values` are read on the way; `way="backward"` leaves the fast way out. Raises as
    `gradients` does.
    """
    rows = list(range(len(batch)) if rows is None else rows)
    n_points = 1 if points is None else len(points)
    ways = readings(model) if way == "columns" else ("asked for",) * shape.n_layers
    taps, places, more = _places(model, shape, ways)
    whole = Batch(batch.ids * n_points)
    given = None if points is None else points.flatten(0, 1)
    with recording(model) as sides:
        found = gradients(
            model,
            whole,
            metric,
            places,
            taps=taps,
            only_values=[*more, *only_values],
            rows=rows * n_points,
            embed=given,
        )
    return ReceiverGradients(
        model, shape, n_points, found.metric.unflatten(0, (n_points, -1)), found, ways, taps, sides
    )


def _places(
    model: Model, shape: GraphShape, ways: Sequence[Reading | str]
) -> tuple[dict[Place, Tap], list[Place], list[Place]]:
    """Taps that are no sites, places whose gradient is needed, and places whose value is."""
    taps: dict[Place, Tap] = {}
    places: list[Place] = [("resid_pre", layer) for layer in range(shape.n_layers)]
    places.append(("resid_post", shape.n_layers - 1))
    values: list[Place] = []
    for layer, way in enumerate(ways):
        if not shape.parallel:
            places.append(("attn_out", layer))
        if isinstance(way, str):
            places += [(kind, layer) for kind in KINDS]
            continue
        for i, tap in enumerate(way.projections):
            taps[f"projection{i}", layer] = tap
            places.append((f"projection{i}", layer))
        first = way.projections[0].module
        taps[NORMED, layer] = Tap(first, "input", 0, model.d_model)
        values.append((NORMED, layer))
    return taps, places, values


__all__ = ["Columns", "ReceiverGradients", "receiver_gradients"]
