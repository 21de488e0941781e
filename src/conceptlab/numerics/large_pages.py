"""Memory that is filled again and again, in large pages where the system has them: reading it here and there misses less."""

import math
import mmap
from contextlib import suppress

import torch
from torch import Tensor

PAGE = 2 << 20  # bytes of a large page; less memory than a few of them is not worth asking for


def roomy(*shape: int, device: torch.device) -> Tensor:
    """Memory [*shape] in float32 without values. Filling it the first time costs more than usual, so keep and reuse it."""
    n = math.prod(shape)
    if device.type != "cpu" or 4 * n < 4 * PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(*shape, device=device)
    memory = mmap.mmap(-1, 4 * n)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32, count=n).view(*shape)
