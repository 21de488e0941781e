"""Train any model of the library, by default a causal language model on weighted tokens: seeded batches in, losses out.

The same model, batches and schedule give the same weights on one machine with one number of threads. Nothing is written here.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from conceptlab.errors import InputError, RunError
from conceptlab.runs import SILENT, Progress, interruptible
from conceptlab.runs.estimate import duration
from conceptlab.train.schedule import Schedule
from conceptlab.train.token_batch import masked_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MEASURED_STEPS = 10  # after so many steps the rest is estimated
Loss = Callable[[nn.Module, Any, torch.device], Tensor]  # model, batch, device -> one number


@dataclass(frozen=True)
class Training:
    """What a training was: the loss of every step (nats a weighted token), its seconds, and whether it stopped early."""

    losses: tuple[float, ...]
    seconds: float
    stopped_early: bool

    @property
    def final_loss(self) -> float:
        """Mean of the last 20 losses."""
        last = self.losses[-20:]
        return sum(last) / len(last)


def train_model(
    model: "PreTrainedModel",
    batches: Iterable[Any],
    schedule: Schedule,
    *,
    loss: Loss = masked_loss,
    progress: Progress = SILENT,
    label: str = "training",
    on_step: Callable[[int, float], None] | None = None,
) -> Training:
    """Train `model` in place, on the device it is on, and leave it in evaluation mode.

    `batches` gives `schedule.parts` batches a step, in the form that `loss` reads (the usual one: TokenBatch, next tokens);
    `on_step(steps done, loss)` runs after each. After a few steps the time of the
    rest is said. Raises InputError when the batches end too soon, RunError when the loss is no number, and Interrupted on Ctrl-C
    (the half-trained model is not for use).
    """
    losses: list[float] = []
    began = time.monotonic()
    model.train()
    try:
        with interruptible("the half-trained model is not kept"), progress.task(label, schedule.steps) as task:
            for value in _steps(model, iter(batches), schedule, loss):
                losses.append(value)
                task.advance()
                if on_step is not None:
                    on_step(len(losses), value)
                if len(losses) == MEASURED_STEPS:
                    rest = (time.monotonic() - began) / MEASURED_STEPS * (schedule.steps - MEASURED_STEPS)
                    progress.say(f"{label}: {schedule.steps} steps, at most {duration(rest)} more")
                if schedule.reached(losses):
                    break
    finally:
        model.zero_grad(set_to_none=True)
        model.eval()
    return Training(tuple(losses), time.monotonic() - began, len(losses) < schedule.steps)


def _steps(model: "PreTrainedModel", source: Iterator[Any], schedule: Schedule, of: Loss) -> Iterator[float]:
    """One optimizer step at a time; gives its loss."""
    optimizers = _optimizers(model, schedule)
    device = next(model.parameters()).device
    for step in range(schedule.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.zero_grad(set_to_none=True)
        parts = list(islice(source, schedule.parts))
        if len(parts) < schedule.parts:
            raise InputError(
                f"the batches ended at step {step} of {schedule.steps}; give endless batches or fewer steps"
            )
        loss = 0.0
        for batch in parts:
            part = of(model, batch, device) / schedule.parts
            part.backward()
            loss += part.item()
        if not math.isfinite(loss):
            raise RunError(
                f"the loss became {loss} at step {step}; lower the learning rate ({schedule.learning_rate:g})"
            )
        nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        for optimizer in optimizers:
            optimizer.step()
        yield loss


def _optimizers(model: "PreTrainedModel", schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, its steps scaled to those of AdamW; AdamW for embeddings, unembedding, gains and biases."""
    inside = block_matrices(model) if schedule.optimizer == "muon" else []
    chosen = {id(weight) for weight in inside}
    outside = [weight for weight in model.parameters() if id(weight) not in chosen]
    decay = schedule.weight_decay
    rest = torch.optim.AdamW(outside, betas=(0.9, 0.98), weight_decay=decay)
    if not inside:
        return [rest]
    return [torch.optim.Muon(inside, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), rest]


def block_matrices(model: "PreTrainedModel") -> list[nn.Parameter]:
    """The matrices that are neither an embedding (of tokens or of positions) nor the unembedding."""
    ends = {id(w) for m in model.modules() if isinstance(m, nn.Embedding) for w in m.parameters()}
    head = model.get_output_embeddings()
    ends |= {id(w) for w in head.parameters()} if isinstance(head, nn.Module) else set()
    return [weight for weight in model.parameters() if weight.ndim == 2 and id(weight) not in ends]
