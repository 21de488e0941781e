"""One short forward with every module watched: the raw material from which the anatomy is found.

Every linear map is disturbed by seeded noise while the trace runs, so that weights which happen to be zero (hand-written models,
freshly initialised adapters) cannot hide the structure. Structure does not depend on weights; nothing stays on the model.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, watch_attention


def first_tensor(value: Any) -> tuple[Tensor | None, int | str | None]:
    """The tensor inside a module's output and where it sits: None (the output itself), an index, or a field name."""
    if isinstance(value, Tensor):
        return value, None
    if isinstance(value, dict) or hasattr(value, "keys"):
        for key in value:
            if isinstance(value[key], Tensor):
                return value[key], key
        return None, None
    if isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            if isinstance(item, Tensor):
                return item, index
    return None, None


def copied(value: Any) -> Any:
    """The same structure with its tensors copied (one level deep, which is where `first_tensor` looks)."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (tuple, list)) and not hasattr(value, "keys"):
        items = [v.clone() if isinstance(v, Tensor) else v for v in value]
        return items if isinstance(value, list) else tuple(items)
    return value


@dataclass
class Event:
    """One call of one module: `order` counts returns; `args`/`kwargs` are the tensors that came in, `output` what went out."""

    name: str
    module: nn.Module
    started: int
    order: int
    args: dict[int | str, Tensor]
    output: Any
    held: Any  # the live tensors, kept so that `identity` stays unique; `output` is a copy, since some blocks add in place
    identity: tuple[int, tuple[int, ...]] | None

    @property
    def value(self) -> Tensor | None:
        """The (first) tensor that went out."""
        return first_tensor(self.output)[0]

    @property
    def first_input(self) -> Tensor | None:
        """The first tensor that came in."""
        return next(iter(self.args.values()), None)


@dataclass
class Trace:
    """All events of one forward in order of return, the attention calls among them, and the model's own output."""

    events: list[Event] = field(default_factory=list)
    attention: list[AttentionCall] = field(default_factory=list)
    output: Any = None
    clock: int = 0

    def tick(self) -> int:
        """The next moment."""
        self.clock += 1
        return self.clock


# Linear, Linear4bit, Linear8bitLt, WQLinear_GEMM, GPT-2's Conv1D; not KimiLinearRMSNorm.
_LINEAR = re.compile(r"Linear(\d\w*|NF4|FP4|_\w+)?$|^Conv1D$")


def is_linear(module: nn.Module) -> bool:
    """A linear map, also a quantised one, a transposed one (GPT-2's Conv1D) or one wrapped by an adapter."""
    if hasattr(module, "base_layer"):
        return True
    weight = getattr(module, "weight", None)
    named = bool(_LINEAR.search(type(module).__name__))
    return isinstance(module, nn.Linear) or (named and isinstance(weight, Tensor))


def _disturb(generator: torch.Generator):
    """A hook that adds noise as large as what flows through, so every path carries something."""

    def hook(_module: nn.Module, args: tuple, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        scale = output.detach().float().pow(2).mean().sqrt()
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            scale = scale + 0.1 * args[0].detach().float().pow(2).mean().sqrt()
        noise = torch.randn(output.shape, generator=generator).to(output.device)
        return output + (noise * (scale + 1e-3)).to(output.dtype)

    return hook


def _recorder(trace: Trace, names: dict[nn.Module, str], started: dict[int, list[int]]):
    def before(module: nn.Module, _args: tuple, _kwargs: dict) -> None:
        started.setdefault(id(module), []).append(trace.tick())

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tensors: dict[int | str, Tensor] = {i: a for i, a in enumerate(args) if isinstance(a, Tensor)}
        tensors |= {k: a for k, a in kwargs.items() if isinstance(a, Tensor)}
        begun = started[id(module)].pop() if started.get(id(module)) else trace.clock
        value = first_tensor(output)[0]
        identity = None if value is None else (value.data_ptr(), tuple(value.stride()))
        trace.events.append(
            Event(names[module], module, begun, trace.tick(), tensors, copied(output), output, identity)
        )

    return before, after


@contextmanager
def _hooks(module: nn.Module, trace: Trace, seed: int | None) -> Iterator[None]:
    names = {m: n for n, m in module.named_modules()}
    before, after = _recorder(trace, names, {})
    generator = torch.Generator().manual_seed(seed or 0)
    handles = []
    try:
        for inner in names:
            if seed is not None and is_linear(inner) and not hasattr(inner, "base_layer"):
                handles.append(inner.register_forward_hook(_disturb(generator)))
            handles.append(inner.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(inner.register_forward_hook(after, with_kwargs=True))
        with watch_attention(module, trace.attention.append, clock=trace.tick):
            yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def trace_forward(module: nn.Module, inputs: dict[str, Tensor], *, seed: int | None = 0) -> Trace:
    """Run `module(**inputs)` once and record every call. `seed=None` leaves the values undisturbed."""
    trace = Trace()
    with _hooks(module, trace, seed):
        trace.output = module(**inputs)
    return trace
