"""Schedule: how long, how fast and with which optimizer a model is trained."""

import math
from dataclasses import dataclass
from typing import Literal

from conceptlab.errors import InputError


@dataclass(frozen=True)
class Schedule:
    """A step sums the gradients of `parts` batches. The rate warms up linearly over `warmup` steps, then follows a cosine
    down to `floor` of its peak.

    `optimizer`: "muon" (Muon for the matrices inside the blocks, AdamW for the rest) or "adamw" for everything. Training stops
    early when the mean loss of the last `window` steps is at most `target_loss` (None: never).
    """

    steps: int
    learning_rate: float = 2e-3
    warmup: int = 50
    parts: int = 1
    weight_decay: float = 0.05
    clip: float = 1.0
    floor: float = 0.02
    optimizer: Literal["muon", "adamw"] = "muon"
    target_loss: float | None = None
    window: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.parts < 1 or self.window < 1 or self.learning_rate <= 0:
            raise InputError(
                f"a schedule of {self.steps} steps, {self.parts} parts, window {self.window} and rate {self.learning_rate:g} "
                "trains nothing; every one of them must be positive"
            )
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"{self.optimizer!r} is no optimizer here; use muon or adamw")

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))

    def reached(self, losses: list[float]) -> bool:
        """Whether the last `window` losses are good enough to stop."""
        if self.target_loss is None or len(losses) < self.window:
            return False
        return sum(losses[-self.window :]) / self.window <= self.target_loss
