"""Tap: where a site of one block is read and written."""

from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Tap:
    """Where a site is read and written: the `module`, its `input` or `output`, the key of the tensor there.

    `scale` multiplies what is read (residual multipliers); `split` cuts the last axis (fused projections): (start, stop, step);
    `heads` reshapes the last axis to [heads, d_head]; `width` is the size of the canonical last axis. `nth` says which call of
    the module it is where one forward makes several; `read_only` says why writing there would not be felt.
    """

    module: nn.Module
    side: Literal["input", "output", "attention", "mid"]
    key: int | str | None
    width: int
    scale: float = 1.0
    split: tuple[int, int, int] | None = None
    heads: int | None = None
    nth: int | None = None
    read_only: str = ""
