"""Activations that modeling files write out step by step, run as the one fused function that is the same to rounding.

GPT-2's tanh GELU is eight passes over the neurons' values; the fused one is a single pass.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import gelu

from conceptlab.model.stand_ins import standing_in

FUSED: dict[str, Callable[[Tensor], Tensor]] = {"NewGELUActivation": partial(gelu, approximate="tanh")}


def fused_activations(root: nn.Module) -> AbstractContextManager[None]:
    """While the context is open, modules of the classes in `FUSED` run as one function; hooks on them see what they saw."""
    found = [(module, FUSED[name]) for module in root.modules() if (name := type(module).__name__) in FUSED]
    return standing_in(found)
