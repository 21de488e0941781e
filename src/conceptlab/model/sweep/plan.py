"""What a sweep will cost, said before it runs: in bare forwards of one row, in bytes, and in time."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from conceptlab.errors import InputError
from conceptlab.runs.estimate import duration, size

if TYPE_CHECKING:
    from conceptlab.model.model import Model
    from conceptlab.model.sweep.work import Work

MOST_TOKENS = 16384  # in one pass at its top: a block is called on pieces of them, so more makes nothing faster
FOUR = 4  # bytes of a float32


@dataclass(frozen=True)
class Plan:
    """`n_units` changed rows of which `n_skipped` cannot change anything; `forward_equivalents` is the arithmetic that is left in
    bare forwards of one clean row (unembedding included); `bytes_peak` what is held beside the weights."""

    kind: str
    n_items: int
    n_rows: int
    n_units: int
    n_skipped: int
    n_passes: int
    forward_equivalents: float
    bytes_peak: int
    seconds: float = float("nan")
    note: str = ""

    def __str__(self) -> str:
        how = {
            "packed": "blocks below and positions before a change skipped",
            "whole": "blocks below a change skipped, positions not",
            "full": "plain forwards, nothing skipped",
        }[self.kind]
        skipped = f", {self.n_skipped:,} known to change nothing" if self.n_skipped else ""
        time = "" if np.isnan(self.seconds) else f", about {duration(self.seconds)}"
        return (
            f"sweep: {self.n_items:,} edits x {self.n_rows:,} rows{skipped}: {self.forward_equivalents:,.1f} forward-equivalents "
            f"in {self.n_passes:,} passes, {size(self.bytes_peak)}{time} ({how}{'; ' + self.note if self.note else ''})"
        )


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of one token in one block, of its keys and values alone, and of one row of the unembedding."""

    block: float
    keys: float
    head: float

    @classmethod
    def of(cls, model: "Model") -> "Cost":
        """Counted from the weights: every matrix of a block once a token (all experts of a mixture)."""
        blocks = [sum(p.numel() for p in b.module.parameters() if p.dim() >= 2) for b in model.stack.blocks]
        block = float(np.mean(blocks))
        head = float(model.unembedding.numel()) if model.has_logits else 0.0
        return cls(block, block / 4, head)

    def forward(self, n_pos: int, n_layers: int) -> float:
        """A bare forward of one row."""
        return n_pos * (n_layers * self.block + self.head)

    def units(self, work: "Work", n_pos: int, n_layers: int, *, last_alone: bool, late: bool) -> float:
        """All units of a sweep; `late` spares the projections of all but one token in the block that a unit joins."""
        tokens, blocks = n_pos - work.start, np.maximum(n_layers - work.join, 0)
        a_token = (self.block - self.keys) * last_alone + self.keys * late
        spared = (tokens - 1) * a_token * (blocks > 0)
        return float((tokens * blocks * self.block - spared).sum())


def bytes_per_token(model: "Model", dtype_bytes: int = FOUR) -> int:
    """What a pass holds of one token inside a block, roughly: streams, projections, and the neurons several times over."""
    attention = model.n_heads * model.stack.d_head
    return dtype_bytes * (8 * model.d_model + 6 * attention + 4 * max(model.d_mlp, model.d_model))


def kept_per_row(model: "Model", n_pos: int, *, attention: bool, dtype_bytes: int = FOUR) -> int:
    """What the clean run keeps of one row."""
    width = (model.n_layers + 1) * model.d_model
    if attention:
        width += 2 * model.n_layers * (model.n_heads + model.stack.n_kv_heads) * model.stack.d_head
    return dtype_bytes * n_pos * width


def default_budget() -> int:
    """A quarter of the memory that is free, at most 4 GB."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min(free // 4, 4 * 10**9)


def fit(model: "Model", n_pos: int, n_rows: int, budget: int, *, attention: bool) -> tuple[int, int]:
    """Clean rows kept at once and tokens in a pass that stay in the budget. Raises InputError where not even one row fits."""
    token, row = bytes_per_token(model), kept_per_row(model, n_pos, attention=attention)
    least = row + n_pos * token
    if budget < least:
        raise InputError(
            f"a memory budget of {size(budget)} is too small: one row of {n_pos} tokens needs {size(least)}; give at least that"
        )
    rows = int(max(1, min(n_rows, (budget - n_pos * token) // 2 // row)))
    tokens = int(max(n_pos, min(MOST_TOKENS, (budget - rows * row) // token)))
    return rows, tokens
