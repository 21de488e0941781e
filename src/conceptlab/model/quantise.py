"""Run a model as if its linear weights were int8, int4 or bf16: each is rounded while its module runs and put back at once.

A stand-in on any device for weight-only quantisation (absolute maximum per output row, no outliers kept apart); one weight at a
time is held twice, and afterwards every tensor of the model is the very same object as before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.errors import InputError
from conceptlab.model.model import Model
from conceptlab.model.trace import is_linear


def int8_round_trip(weight: Tensor, row_axis: int = 0) -> Tensor:
    """`weight` rounded to 255 levels per slice along `row_axis`, back in its own dtype."""
    return _round_trip(weight, row_axis, 127)


def int4_round_trip(weight: Tensor, row_axis: int = 0) -> Tensor:
    """The same with 15 levels."""
    return _round_trip(weight, row_axis, 7)


def bf16_round_trip(weight: Tensor, row_axis: int = 0) -> Tensor:  # noqa: ARG001 - one form for all roundings
    """`weight` as bfloat16 holds it, back in its own dtype."""
    return weight.to(torch.bfloat16).to(weight.dtype)


ROUNDINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "bf16": bf16_round_trip,
    "int8": int8_round_trip,
    "int4": int4_round_trip,
}


def _round_trip(weight: Tensor, row_axis: int, top: int) -> Tensor:
    other = tuple(i for i in range(weight.dim()) if i != row_axis)
    scale = weight.abs().amax(dim=other, keepdim=True).clamp_min(1e-12) / top
    return (torch.round(weight / scale).clamp(-top, top) * scale).to(weight.dtype)


@contextmanager
def quantised(model: Model, to: str = "int8") -> Iterator[None]:
    """Within the block every linear map inside the model's blocks uses rounded weights; the ends of the stream stay exact.

    `to` is a name of `ROUNDINGS`. Raises InputError for another one.
    """
    if to not in ROUNDINGS:
        raise InputError(f"weights are not rounded to {to!r} here; use {', '.join(ROUNDINGS)}")
    held: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, _args: Any) -> None:
        held[module] = module.weight.data  # type: ignore[union-attr]
        transposed = type(module).__name__ == "Conv1D"
        module.weight.data = ROUNDINGS[to](held[module], 1 if transposed else 0)  # type: ignore[union-attr]

    def after(module: nn.Module, _args: Any, _output: Any) -> None:
        module.weight.data = held.pop(module)  # type: ignore[union-attr]

    handles: list[Any] = []
    try:
        for block in model.stack.blocks:
            for module in block.module.modules():
                if is_linear(module) and _rounds(module):
                    handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, weight in held.items():
            module.weight.data = weight  # type: ignore[union-attr]


def _rounds(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if hasattr(module, "base_layer") or not isinstance(weight, Tensor) or weight.device.type == "meta":
        return False
    return weight.dim() == 2 and weight.is_floating_point()
