"""Gradients of a metric at all neurons of the last token, scaled layer by layer, from one forward and one backward of last tokens.

What happens at the last token changes nothing before it, so copies of the last token alone are run, on the keys and values that
the clean run kept. The copies of a layer join at that layer: copies of all layers go through the upper blocks together, and one
backward serves all of them. Needs a model on which `sweep` may pack tokens (`model.sweep_strategy`).
Cost: a clean forward, and about copies x layers / (2 x pos) forwards and backwards of a row.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.batch import Batch
from conceptlab.model.gradients import _value
from conceptlab.model.instrument import Visit
from conceptlab.model.metric import Metric
from conceptlab.model.model import Model
from conceptlab.model.sweep.clean import Kept, keep_clean

SITE = "mlp_post"


@dataclass(frozen=True, eq=False)
class ScaledRuns:
    """By layer: activations `values` [layer, row, neuron] at the last token, gradients `grads` [layer, share, row, neuron] and the
    `metric` [layer, share, row] (float64) with that layer's neurons there at each share of their values."""

    values: Tensor
    grads: Tensor
    metric: Tensor


def can_scale(model: Model, metric: Metric) -> bool:
    """Whether the fast way is exact here: tokens may be packed, and the metric reads logits that are a lens of the last stream."""
    lens = not {"lens", "logits"} & set(model.stack.missing)
    return model.sweep_strategy.kind == "packed" and metric.site is None and metric.position == "last" and lens


def scaled_runs(
    model: Model, batch: Batch, metric: Metric, layers: Sequence[int], shares: Sequence[float], *, rows: Sequence[int]
) -> ScaledRuns:
    """Runs of rows of one length; `rows` numbers them for the metric. All of them are in memory at once."""
    kept = keep_clean(model, batch, attention=True)
    run = _Run(kept, tuple(layers), torch.tensor(list(shares)))
    with torch.inference_mode(False), torch.enable_grad(), run.attention():
        ends = run.stream()
        source = torch.as_tensor(list(rows), device=ends.device).repeat(len(shares) * len(run.leaves))
        found = _value(model, metric, ends[0][:, None], source, lens=True)
        grads = torch.autograd.grad(found.sum(), run.leaves)
    shape = (len(shares), len(batch))
    model.forwards += len(batch) * len(shares) * len(layers) * 0.5 / kept.run.n_pos
    order = [run.joined.index(layer) for layer in layers]
    return ScaledRuns(
        torch.stack([run.values[i] for i in order]),
        torch.stack([grads[i][0].unflatten(0, shape) for i in order]),
        torch.stack([found.detach().unflatten(0, (len(run.joined), *shape))[i] for i in order]),
    )


class _Run:
    """The last tokens on their way: copies of every row, share by share, those of a lower layer first."""

    def __init__(self, kept: Kept, layers: tuple[int, ...], shares: Tensor) -> None:
        self.kept, self.shares = kept, shares
        self.joined = sorted(layers)
        self.leaves: list[Tensor] = []
        self.values: list[Tensor] = []
        self._layer, self._rows = 0, torch.zeros(0, dtype=torch.long)

    def stream(self) -> Tensor:
        """What leaves the last block, [1, token, d_model]."""
        run, model = self.kept.run, self.kept.run.model
        each = torch.arange(run.n_rows).repeat(len(self.shares))
        stream = run.streams[0].new_zeros(1, 0, run.streams.shape[-1])
        for layer in range(self.joined[0], model.n_layers):
            joins = layer in self.joined
            if joins:
                clean = run.streams[layer][:, -1].repeat(len(self.shares), 1)
                stream = torch.cat([stream, clean[None]], 1)
                self._rows = torch.cat([self._rows, each])
            self._layer = layer
            visits = [(model.tap(SITE, layer), layer, True, self._scaled(len(each)))] if joins else []
            with model.instrument.visiting(visits):
                pos = torch.full_like(self._rows, run.n_pos - 1)
                stream = run.packed_block(layer, stream, self._rows, pos)
        return stream

    def _scaled(self, n_new: int) -> Visit:
        def visit(view: Tensor) -> Tensor:
            clean = view[:, -n_new:].detach()
            self.values.append(clean[0, -self.kept.run.n_rows :].clone())
            scale = self.shares.to(clean).repeat_interleave(self.kept.run.n_rows)
            leaf = (clean * scale[None, :, None]).requires_grad_()
            self.leaves.append(leaf)
            return torch.cat([view[:, :-n_new], leaf], 1)

        return visit

    @contextmanager
    def attention(self) -> Iterator[None]:
        """Give every last token the kept keys and values before it."""
        with handle_attention(self.kept.run.model.runner, self._on_attention):
            yield

    def _on_attention(self, module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        model, seen = self.kept.run.model, self.kept.seen[self._layer]
        if module is not model.tap("k", self._layer).module:
            return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        rows, before = self._rows, self.kept.run.n_pos - 1
        k, v = (
            torch.cat([clean[rows][:, :, :before], own[0].transpose(0, 1)[:, :, None]], 2)
            for clean, own in ((seen.k, call.k), (seen.v, call.v))
        )
        z = delegate(module, call.q[0].transpose(0, 1)[:, :, None], k, v, seen.mask_from(before, rows), **call.kwargs)[
            0
        ]
        return z.transpose(0, 1), None  # [token, 1, head, d_head] as [1, token, head, d_head]
