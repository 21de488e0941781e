"""Run a model as if its linear weights were int8: each is rounded while its module runs and put back at once.

A stand-in on any device for weight-only 8-bit quantisation (absolute maximum per output row); one weight at a time is held twice,
and afterwards every tensor of the model is the very same object as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from conceptlab.model.model import Model
from conceptlab.model.trace import is_linear


def int8_round_trip(weight: Tensor, row_axis: int = 0) -> Tensor:
    """`weight` rounded to 255 levels per slice along `row_axis`, back in its own dtype."""
    other = tuple(i for i in range(weight.dim()) if i != row_axis)
    scale = weight.abs().amax(dim=other, keepdim=True).clamp_min(1e-12) / 127
    return (torch.round(weight / scale).clamp(-127, 127) * scale).to(weight.dtype)


@contextmanager
def quantised(model: Model) -> Iterator[None]:
    """Within the block every linear map inside the model's blocks uses rounded weights; the ends of the stream stay exact."""
    held: dict[nn.Module, Tensor] = {}

    def before(module: nn.Module, _args: Any) -> None:
        held[module] = module.weight.data  # type: ignore[union-attr]
        transposed = type(module).__name__ == "Conv1D"
        module.weight.data = int8_round_trip(held[module], 1 if transposed else 0)  # type: ignore[union-attr]

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
