"""The clean run of a sweep: the stream that enters every block and, where positions are skipped, all keys and values."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, explicit_mask, handle_attention
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import CleanRun, record_run
from conceptlab.model.model import Model
from conceptlab.model.sweep.late import Noted


@dataclass(frozen=True, eq=False)
class Seen:
    """What one block's attention was given, `q` [row, head, pos, d_head], `k`, `v` [row, kv_head, pos, d_head], and gave,
    `z` [row, pos, head, d_head]; `mask` explicit and additive, `plain` where causality alone says it all. `projections` are the
    matrices that made q, k and v."""

    q: Tensor
    k: Tensor
    v: Tensor
    z: Tensor
    mask: Tensor | None
    plain: bool
    projections: tuple[tuple[nn.Module, int], ...] = ()

    @classmethod
    def of(cls, call: AttentionCall, z: Tensor, projections: Sequence[tuple[nn.Module, int]]) -> "Seen":
        """Keep a call."""
        q, k, v = (t.detach() for t in (call.q, call.k, call.v))
        return cls(q, k, v, z.detach(), explicit_mask(call), call.mask is None, tuple(projections))

    def mask_from(self, start: int, rows: Tensor) -> Tensor | None:
        """The mask of queries from position `start` on; None where nothing is hidden from them or causality says it."""
        return None if self.plain and start in (0, self.k.shape[2] - 1) else self.mask_at(start, rows)

    def mask_at(self, start: int, rows: Tensor) -> Tensor | None:
        """The same, always explicit."""
        if self.mask is None:
            return None
        mask = self.mask[:, :, start:]
        return mask if mask.shape[0] == 1 else mask[rows.to(mask.device)]


@dataclass(frozen=True, eq=False)
class Kept:
    """`run` with what each block's attention was given (empty where positions are not skipped); `late` says whether units that
    join a block take what is clean there from it."""

    run: CleanRun
    seen: tuple[Seen, ...] = field(default=())
    late: bool = False

    @property
    def size_bytes(self) -> int:
        """What is kept, in bytes."""
        held = [self.run.streams, *(t for s in self.seen for t in (s.q, s.k, s.v, s.z))]
        return sum(t.numel() * t.element_size() for t in held)


def keep_clean(model: Model, batch: Batch, *, attention: bool, late: bool = False) -> Kept:
    """Run equal-length rows once; with `attention` also keep what enters and leaves attention in every block."""
    _ = model.side_axes  # asked of forwards of its own, which must not be seen here
    modules = [model.tap("k", layer).module for layer in range(model.n_layers)] if attention else []
    noted, calls = {id(module): Noted(module) for module in modules}, {}

    def handler(module: nn.Module, call: AttentionCall, delegate: Callable[..., Any]) -> Any:
        out = delegate(module, call.q, call.k, call.v, call.mask, **call.kwargs)
        if id(module) in noted:
            noted[id(module)].close()
            calls[id(module)] = Seen.of(call, out[0], noted[id(module)].found)
        return out

    try:
        with handle_attention(model.runner, handler) if attention else nullcontext(), torch.no_grad():
            run = record_run(model, batch)
    finally:
        for one in noted.values():
            one.close()
    return Kept(run, tuple(calls[id(module)] for module in modules), late and attention)
