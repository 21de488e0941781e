"""Memory that is filled again and again, in large pages where the system has them: reading it here and there misses less."""

import math
import mmap
import weakref
from collections import deque
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

PAGE = 2 << 20  # bytes of a large page; less memory than a few of them is not worth asking for


def roomy(*shape: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Memory [*shape] without values. Filling it the first time costs more than usual, so keep and reuse it."""
    size = math.prod(shape) * dtype.itemsize
    if torch.device(device).type != "cpu" or not _worth(size):
        return torch.empty(*shape, device=device, dtype=dtype)
    return _tensor(np.frombuffer(_in_large_pages(size), np.uint8), shape, dtype)


class Spaces:
    """Lends memory, and lends it again once no tensor looks at it any more; at most `most` pieces wait to be lent again."""

    def __init__(self, most: int) -> None:
        self._lent: deque[tuple[mmap.mmap, weakref.ref[np.ndarray]]] = deque(maxlen=most)

    def take(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Memory [*shape] of the processor, with whatever values."""
        size = math.prod(shape) * dtype.itemsize
        if not _worth(size):
            return torch.empty(*shape, dtype=dtype)
        idle = (at for at, (memory, user) in enumerate(self._lent) if user() is None and len(memory) >= size)
        at = next(idle, None)
        if at is None:
            memory = _in_large_pages(size)
        else:
            memory, _ = self._lent[at]
            del self._lent[at]
        seen = np.frombuffer(
            memory, np.uint8, size
        )  # every tensor and view over it keeps this alive, and nothing else does
        self._lent.append((memory, weakref.ref(seen)))
        return _tensor(seen, shape, dtype)


def _worth(size: int) -> bool:
    return size >= 4 * PAGE and hasattr(mmap, "MADV_HUGEPAGE")


def _in_large_pages(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory would have small pages
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _tensor(seen: np.ndarray, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(seen).view(dtype).view(*shape)
