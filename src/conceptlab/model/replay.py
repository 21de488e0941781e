"""Replay a few rows many times with changes, paying only for what a change can reach.

A change at block L leaves the blocks below as they were, so they become stubs and block L receives the stored stream; a change
at the last token leaves the tokens before it as they were, so they come from the KV cache. Both shortcuts are tested on the
model itself when the replay is prepared, and dropped, with a note, where they are not exact to 1e-5 (state-space layers,
encoders, upper blocks that read more than the stream).
"""

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from conceptlab.model.batch import Batch
from conceptlab.model.instrument import Placed, Visit
from conceptlab.model.kv_cache import cache_name, cache_of
from conceptlab.model.model import Model
from conceptlab.model.stand_ins import standing_in
from conceptlab.model.tap import Tap

_TOLERANCE = 1e-5
_REFUSALS = (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError)

# (tap, layer, visitor): what a replay changes besides the stream that it is given
Change = tuple[Tap, int, Visit]


def stubbed(model: Model, first_live: int) -> AbstractContextManager[None]:
    """Blocks below `first_live` pass the stream through untouched while this context is open."""
    blocks = model.stack.blocks[:first_live]
    return standing_in((b.module, _stub(b.taps["resid_pre"].key, b.taps["resid_post"].key)) for b in blocks)


def _stub(inner: int | str | None, out: int | str | None) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Any:
        stream = args[inner] if isinstance(inner, int) and inner < len(args) else kwargs[str(inner)]
        return stream if out is None else (stream, None)

    return forward


@dataclass
class Replay:
    """Prepared rows. `streams` [layer, row, col, d_model] enter each block, `final` [row, d_model] leaves the last one at the
    last token, `at_read` the same at the read position; `read`, `last` [row] are columns of the part that is run again."""

    model: Model
    inputs: dict[str, Tensor]
    cache: Any
    read: Tensor
    last: Tensor
    streams: Tensor
    final: Tensor
    at_read: Tensor
    resumable: bool
    notes: list[str] = field(default_factory=list)

    @property
    def n_rows(self) -> int:
        """Rows that are replayed."""
        return self.final.shape[0]

    @property
    def cost(self) -> float:
        """Columns run again per row, as a share of the row."""
        return self.inputs["input_ids"].shape[1] / self.inputs["attention_mask"].shape[1]

    def run(self, layer: int, stream: Tensor, changes: list[Change] = []) -> tuple[Tensor, Tensor]:  # noqa: B006 - never changed
        """Replay from block `layer` with `stream` [k * row, col, d_model] (k copies of the rows, copy by copy) and `changes`.

        Returns the last block's stream at the last token and at the read position, [k, row, d_model] each.
        """
        copies = stream.shape[0] // self.n_rows
        into: list[Tensor] = []
        start, end = self.model.tap("resid_pre", layer), self.model.tap("resid_post", self.model.n_layers - 1)
        visits: list[Placed] = [(start, layer, True, lambda _view: stream)]
        visits += [(tap, at, True, visit) for tap, at, visit in changes]
        visits.append((end, None, False, into.append))  # type: ignore[arg-type]
        with (
            stubbed(self.model, layer if self.resumable else 0),
            self.model.instrument.visiting(visits),
            torch.no_grad(),
        ):
            share = self.cost * (1 - layer / self.model.n_layers if self.resumable else 1.0)
            self.model._forward(self._inputs(copies), stop_after=self.model.n_layers - 1, share=share)
        out = into[0].reshape(copies, self.n_rows, *into[0].shape[1:])
        rows = torch.arange(self.n_rows, device=out.device)
        return out[:, rows, self.last], out[:, rows, self.read]

    def _inputs(self, copies: int) -> dict[str, Any]:
        inputs: dict[str, Any] = {name: t.repeat(copies, *[1] * (t.dim() - 1)) for name, t in self.inputs.items()}
        if self.cache is not None:
            cache = copy.deepcopy(self.cache)
            cache.reorder_cache(torch.arange(self.n_rows, device=self.final.device).repeat(copies))
            inputs |= {cache_name(self.model): cache, "use_cache": True}
        return inputs


def prepare_replay(model: Model, batch: Batch, read: list[int]) -> Replay:
    """Run the rows once, keep what replays need, and test the shortcuts. `read` [row]: the position where changes start."""
    last_only = all(r == n - 1 for r, n in zip(read, batch.lengths, strict=True))
    side = "left" if last_only else "right"
    inputs = model.padded(batch, range(len(batch)), side)
    width = inputs["input_ids"].shape[1]
    pad = [width - n if side == "left" else 0 for n in batch.lengths]
    read_col = torch.tensor([p + r for p, r in zip(pad, read, strict=True)], device=model.device)
    last_col = torch.tensor([p + n - 1 for p, n in zip(pad, batch.lengths, strict=True)], device=model.device)
    streams, end = _clean(model, inputs)
    rows = torch.arange(len(batch), device=end.device)
    whole = Replay(
        model, inputs, None, read_col, last_col, streams, end[rows, last_col], end[rows, read_col], resumable=True
    )
    whole.resumable = _agrees(whole, model.n_layers // 2)
    if not whole.resumable:
        whole.notes.append("the blocks below a change are run again: upper blocks read more than the stream")
    if not last_only:
        return whole
    return _suffix(model, whole) or whole


def _clean(model: Model, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    into: list[Tensor] = []

    def keep(view: Tensor) -> None:
        into.append(view.detach().clone())

    visits: list[Placed] = [(model.tap("resid_pre", i), i, False, keep) for i in range(model.n_layers)]
    visits.append((model.tap("resid_post", model.n_layers - 1), None, False, keep))
    with model.instrument.visiting(visits), torch.no_grad():
        model._forward(dict(inputs), stop_after=model.n_layers - 1)
    return torch.stack(into[:-1]), into[-1]


def _suffix(model: Model, whole: Replay) -> Replay | None:
    """The same rows with everything before the last token in a KV cache, or None where that is not exact."""
    cache = _prefix_cache(model, whole.inputs)
    if cache is None:
        whole.notes.append("tokens before the change are run again: this model keeps no croppable KV cache")
        return None
    inputs = {name: t[:, -1:] if name != "attention_mask" else t for name, t in whole.inputs.items()}
    if model._takes_positions and "position_ids" not in inputs:
        inputs["position_ids"] = whole.inputs["attention_mask"].sum(1, keepdim=True) - 1
    zero = torch.zeros_like(whole.last)
    short = Replay(
        model,
        inputs,
        cache,
        zero,
        zero,
        whole.streams[:, :, -1:],
        whole.final,
        whole.at_read,
        whole.resumable,
        whole.notes,
    )
    if all(_agrees(short, layer) for layer in {0, model.n_layers // 2}):
        return short
    whole.notes.append("tokens before the change are run again: the KV cache does not reproduce the full forward")
    return None


def _prefix_cache(model: Model, inputs: dict[str, Tensor]) -> Any:
    """The KV cache of all columns but the last, or None where the model has none that can be reused."""
    if not model._takes_cache or inputs["input_ids"].shape[1] < 2:
        return None
    prefix = {name: t[:, :-1] for name, t in inputs.items()}
    try:
        with torch.no_grad():
            out = model.runner(**prefix, use_cache=True)
        cache = cache_of(out)
        return cache if hasattr(cache, "reorder_cache") else None
    except _REFUSALS:
        return None  # a model that cannot be called this way is run in full


def _agrees(replay: Replay, layer: int) -> bool:
    """Whether replaying the unchanged stream gives the unchanged end, in two copies of every row."""
    try:
        final, _ = replay.run(layer, replay.streams[layer].repeat(2, 1, 1))
    except _REFUSALS:
        return False
    limit = _TOLERANCE if final.dtype in (torch.float32, torch.float64) else 3e-2
    return bool((final - replay.final).norm() <= limit * 2 * replay.final.norm())
