"""What one token reads in one layer: its row of the pattern, the values, and what attention adds there, from one block run alone.

The row is formed by the modeling file's own attention on one query, with that query's row of the mask: 1 / tokens of the pattern's
cost. It must give back the heads' output (row @ values = z); where it does not, the whole pattern is formed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model.attention import AttentionCall, explicit_mask, form_pattern, handle_attention
from conceptlab.model.blocks import CleanRun
from conceptlab.model.instrument import Placed, StopForward

EXACT = 1e-4


@dataclass(frozen=True, eq=False)
class AttentionRow:
    """`pattern` [head, key] float64, `v` [key, head, d_head] (a kv head once for each query head that it serves), `z` [1, head,
    d_head], `added` [1, d_model]."""

    pattern: Tensor
    v: Tensor
    z: Tensor
    added: Tensor


@torch.no_grad()
def read_row(run: CleanRun, layer: int, at: int) -> AttentionRow:
    """Read query `at` of one layer. Raises SiteError where the attention is not reached or does not add up."""
    model, seen = run.model, {}
    attention = model.tap("pattern", layer).module

    def handler(module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        if module is attention:
            seen["call"] = call
        return delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)

    def end(added: Tensor) -> None:
        seen["added"] = added[0, at : at + 1]
        raise StopForward

    visits: list[Placed] = [
        (model.tap("z", layer), layer, False, lambda z: seen.update(z=z[0, at : at + 1])),
        (model.tap("attn_out", layer), layer, False, end),
    ]
    try:
        with model.instrument.visiting(visits), handle_attention(model.runner, handler):
            run.block(layer, run.streams[layer])
    except StopForward:
        pass
    if not {"call", "z", "added"} <= seen.keys():
        raise SiteError(f"{model.name}: the attention of block {layer} was not reached when it ran alone")
    call, z = seen["call"], seen["z"]
    v = call.v[0].repeat_interleave(call.q.shape[1] // call.v.shape[1], 0).transpose(0, 1)
    for form in (one_query, all_queries):
        pattern = form(call, at).double().cpu()
        mixed = torch.einsum("hk,khd->hd", pattern, v.double().cpu())
        if bool(
            (mixed - z[0].double().cpu()).norm() <= max(EXACT, 8 * torch.finfo(z.dtype).eps) * z.double().norm().cpu()
        ):
            return AttentionRow(pattern, v, z, seen["added"])
    raise SiteError(
        f"{model.name}: at L{layer} pattern and values do not give the heads' output, so it cannot be split over tokens"
    )


def one_query(call: AttentionCall, at: int) -> Tensor:
    """[head, key] of one query alone."""
    mask = explicit_mask(call)
    if mask is not None and mask.shape[-2] > 1:
        mask = mask[..., at : at + 1, :]
    return form_pattern(replace(call, q=call.q[:, :, at : at + 1], mask=mask))[0, :, 0]


def all_queries(call: AttentionCall, at: int) -> Tensor:
    """[head, key], cut from the whole pattern."""
    return form_pattern(call)[0, :, at]
