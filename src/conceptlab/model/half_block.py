"""Half of a block alone: the queries, keys and values that it makes of a stream, or what its MLP adds for a given input."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, handle_attention
from conceptlab.model.blocks import CleanRun
from conceptlab.model.instrument import StopForward
from conceptlab.model.stand_ins import standing_in

QKV = tuple[Tensor, Tensor, Tensor]


class HalfBlocks:
    """The halves of the blocks of one recorded run; use inside `with halves.open():`. `rows_run` counts rows of halves."""

    def __init__(self, run: CleanRun) -> None:
        self.run, self.rows_run = run, 0
        self._seen: list[QKV] = []
        self._silent = False
        self._templates: dict[int, Any] = {}  # layer -> what its attention module returns, None where it must run

    @contextmanager
    def open(self) -> Iterator["HalfBlocks"]:
        """Route this model's attention calls here; no gradient is kept."""
        with handle_attention(self.run.model.runner, self._on_attention), torch.no_grad():
            yield self

    def _on_attention(self, _module: nn.Module, call: AttentionCall, _delegate: Callable[..., Any]) -> Any:
        if not self._silent:
            self._seen.append((call.q, call.k, call.v))
            raise StopForward
        shape = (call.q.shape[0], call.q.shape[2], call.q.shape[1], call.v.shape[3])
        return call.q.new_zeros(shape), None

    def attention_inputs(self, layer: int, stream: Tensor, rows: Tensor) -> QKV:
        """q [k, head, pos, d_head] and k, v [k, kv_head, pos, d_head], float32, of `stream` [k, pos, d_model] at clean rows
        `rows` [k]."""
        self._seen, self._silent = [], False
        self._call(layer, stream, rows)
        if not self._seen:
            raise LookupError(f"block {layer} called no attention")
        q, k, v = self._seen.pop()
        return q.float(), k.float(), v.float()

    def mlp(self, layer: int, stream: Tensor, rows: Tensor) -> Tensor:
        """What the MLP adds [k, pos, d_model], float32, where its input (before the norm) is `stream`.

        Attention adds nothing here, so that in a sequential block the MLP reads the stream itself; and where leaving the attention
        module out altogether was found to give the same, it does not run.
        """
        self._silent = True
        if layer not in self._templates:
            self._templates[layer] = self._learned(layer, stream[:1], rows[:1])
        return self._mlp(layer, stream, rows, self._templates[layer])

    def _learned(self, layer: int, stream: Tensor, rows: Tensor) -> Any:
        """The form of what the attention module returns, or None where a stub in its place does not give the same."""
        returned: list[Any] = []
        module = self.run.model.tap("q", layer).module
        handle = module.register_forward_hook(lambda *call: returned.append(call[2]))
        try:
            want = self._mlp(layer, stream, rows, None)
        finally:
            handle.remove()
        if not returned:
            return None
        try:
            found = self._mlp(layer, stream, rows, returned[0])
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):
            return None  # a block that does more with what its attention returns runs it
        return returned[0] if torch.equal(found, want) else None

    def _mlp(self, layer: int, stream: Tensor, rows: Tensor, template: Any) -> Tensor:
        model, made = self.run.model, []

        def nothing(view: Tensor) -> Tensor:
            return torch.zeros_like(view)

        def read(view: Tensor) -> None:
            made.append(view.float().clone())
            raise StopForward

        visits = [
            (model.tap("attn_out", layer), layer, True, nothing),
            (model.tap("mlp_out", layer), layer, False, read),
        ]
        stub = nullcontext() if template is None else _left_out(model.tap("q", layer).module, template, len(stream))
        with model.instrument.visiting(visits), stub:
            self._call(layer, stream, rows)
        return made[0]

    def _call(self, layer: int, stream: Tensor, rows: Tensor) -> None:
        self.rows_run += len(stream)
        try:
            self.run.block(layer, stream.to(self.run.streams.dtype), rows)
        except StopForward:
            return


def _left_out(module: nn.Module, template: Any, n_rows: int) -> AbstractContextManager[None]:
    """Let `module` return zeros of the form of `template` (which had one row) for `n_rows` rows, without running."""

    def zeros(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.new_zeros(n_rows, *value.shape[1:]) if value.shape[:1] == (1,) else torch.zeros_like(value)
        if type(value) in (tuple, list):
            return type(value)(zeros(v) for v in value)
        return value

    return standing_in([(module, lambda *_args, **_kwargs: zeros(template))])
