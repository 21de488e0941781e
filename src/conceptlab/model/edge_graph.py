"""A run cut into the pieces of the model's graph: what every sender wrote into the stream, and how attention mixed it.

Senders are the embedding, each head as it is added (its slice of the output projection, then the sublayer's own norm with the
scale held at this run, then the residual multiplier) and each MLP; biases of the projection belong to the constant part of the
stream. That the pieces add up is checked on the recorded run itself, and what does not is a SiteError that names the layer.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import CleanRun, record_run
from conceptlab.model.instrument import Placed
from conceptlab.model.model import Model
from conceptlab.model.output_map import OutputMap, output_map
from conceptlab.model.sums import matches
from conceptlab.results import GraphShape

READ = ("q", "k", "v", "z", "attn_out")
BEYOND = ("cross_attn_out", "mixer_out", "extra_out")  # sublayers that this graph has no node for
EXACT, ROUGH = 1e-5, 3e-2  # relative error of sums in float32, and in half precision


def graph_of(model: Model) -> GraphShape:
    """Senders and receivers of a model. Raises SiteError where a block has no place for them, saying which and why."""
    if not model.has_logits:
        model.tap("logits")
    blocks = model.stack.blocks
    for layer, block in enumerate(blocks):
        if block.post_norm:
            raise SiteError(
                f"{model.name}: block {layer} norms the stream itself (a post-norm block), so its stream is no sum of senders"
            )
        for site in READ:
            model.tap(site, layer)
        more = [site for site in BEYOND if site in block.taps]
        if more:
            raise SiteError(
                f"{model.name}: block {layer} also adds {more[0]} to the stream, for which this graph has no node"
            )
    counts = {(model.tap("q", i).heads, model.tap("k", i).heads) for i in range(len(blocks))}
    forms = {block.parallel for block in blocks if "mlp_out" in block.taps}
    if len(counts) > 1 or len(forms) > 1:
        raise SiteError(
            f"{model.name}: its blocks differ in their heads or in their order, so one graph cannot hold them"
        )
    heads, kv_heads = counts.pop()
    bare = tuple(layer for layer, block in enumerate(blocks) if "mlp_out" not in block.taps)
    return GraphShape(len(blocks), int(heads or 0), int(kv_heads or 0), parallel=True in forms, attention_only=bare)


@dataclass(frozen=True, eq=False)
class Mixing:
    """One block's attention as the run called it: `q` [row, head, pos, d_head], `k`, `v` [row, kv_head, pos, d_head]."""

    call: AttentionCall
    delegate: Callable[..., Any]

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The model's own attention function on n copies of the rows, copy by copy: z [n * row, pos, head, d_head]."""
        call, rows = self.call, self.call.q.shape[0]
        copies = q.shape[0] // rows

        def again(value: Any) -> Any:
            ours = isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == rows > 1
            return value.repeat(copies, *[1] * (value.dim() - 1)) if ours else value

        kwargs = {name: again(value) for name, value in call.kwargs.items()}
        q, k, v = (new.to(old.dtype) for new, old in ((q, call.q), (k, call.k), (v, call.v)))
        return self.delegate(call.module, q, k, v, again(call.mask), **kwargs)[0].float()


@dataclass(frozen=True, eq=False)
class Pieces:
    """A recorded run of rows of one length, float32.

    `pre` [layer + 1, row, pos, d_model] enters each block, `mid` [layer, ...] its MLP. A head writes `z * scale @ weights[head]`:
    `z` [layer][row, pos, head, d_head], `scale` [layer][row, pos, 1, 1] (1 without a norm of the sublayer's own), `weights`
    [layer][head, d_head, d_model]. `mlp` [layer][row, pos, d_model] is None where there is no MLP.
    """

    run: CleanRun
    mixing: tuple[Mixing, ...]
    pre: Tensor
    mid: Tensor
    z: tuple[Tensor, ...]
    scale: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    mlp: tuple[Tensor | None, ...]

    def written(self) -> Tensor:
        """What each sender wrote [sender, row, pos, d_model], in the graph's order."""
        out = [self.pre[:1]]
        for z, scale, weights, mlp in zip(self.z, self.scale, self.weights, self.mlp, strict=True):
            out.append(torch.einsum("rphw,hwd->hrpd", z * scale, weights))
            out += [] if mlp is None else [mlp[None]]
        return torch.cat(out)


@torch.no_grad()
def record_pieces(model: Model, batch: Batch, shape: GraphShape) -> Pieces:
    """Run rows of one length once and cut the run into pieces. Raises SiteError where they do not add up."""
    mixing: dict[int, Mixing] = {}
    added: dict[tuple[str, int], Tensor] = {}

    def handler(module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        output = delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        mixing[id(module)] = Mixing(replace(call, z=output[0].detach().float()), delegate)
        return output

    def reader(site: str, layer: int) -> Placed:
        def keep(view: Tensor) -> None:
            added[site, layer] = view.detach().float().clone()

        return model.tap(site, layer), layer, False, keep

    places = [(site, layer) for site in ("attn_out", "mlp_out") for layer in model.layers_with(site)]
    _ = model.side_axes  # asked of forwards of its own, which must not be seen here
    with handle_attention(model.runner, handler):
        run = record_run(model, batch, [reader(*place) for place in places])
    calls = tuple(mixing[id(model.tap("q", layer).module)] for layer in range(shape.n_layers))
    return _cut(model, run, shape, calls, added)


def _cut(
    model: Model, run: CleanRun, shape: GraphShape, calls: tuple[Mixing, ...], added: dict[tuple[str, int], Tensor]
) -> Pieces:
    pre, exact = run.streams.float(), run.streams.dtype in (torch.float32, torch.float64)
    maps, mids, mlps = [], [], []
    for layer, mixing in enumerate(calls):
        z, attn = mixing.call.z, added["attn_out", layer]
        maps.append(output_map(model, "z", layer, z.flatten(0, 1), attn.flatten(0, 1)))  # type: ignore[union-attr]
        mids.append(pre[layer] if shape.parallel else pre[layer] + attn)
        mlps.append(added.get(("mlp_out", layer)))
        total = pre[layer] + attn + (0.0 if mlps[-1] is None else mlps[-1])
        if not matches(total, pre[layer + 1], EXACT if exact else ROUGH):
            raise SiteError(f"{model.name}: what block {layer} adds is not the sum of its attention and its MLP")
    z = tuple(mixing.call.z for mixing in calls)
    scale = tuple(_scale(m, a) for m, a in zip(maps, z, strict=True))  # type: ignore[arg-type]
    weights = tuple(_weights(m, shape.n_heads) for m in maps)
    return Pieces(run, calls, pre, torch.stack(mids), z, scale, weights, tuple(mlps))  # type: ignore[arg-type]


def _scale(made: OutputMap, z: Tensor) -> Tensor:
    one = torch.ones(*z.shape[:2], 1, 1, device=z.device)
    return one if made.norm is None else made.norm.inverse.float().reshape_as(one)


def _weights(made: OutputMap, n_heads: int) -> Tensor:
    """The projection by head, with the norm's gain (and centring) and the residual multiplier in it."""
    matrix = made.matrix.float()
    if made.norm is not None:
        matrix = matrix - matrix.mean(-1, keepdim=True) if made.norm.centred else matrix
        matrix = matrix * made.norm.gain.float()
    return (matrix * made.scale).unflatten(0, (n_heads, -1))
