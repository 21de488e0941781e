"""Train the embedded model: `python -m conceptlab.worlds.default.train --out DIR [--seed 0] [--steps 3000]`.

Freshly drawn samples, a cosine schedule, Muon for the matrices inside the blocks and AdamW for the rest; nothing is
read from disk or network. The same seed, steps and thread count give the same weights on one machine. A CPU core does
about 5 000 tokens a second.
"""

import argparse
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlab.worlds.default.batches import POOL, Batch, batches
from conceptlab.worlds.default.tokenizer import BOS, EOS, MAX_LENGTH, PAD, SPECIAL, save_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

SAVE_EVERY = 250  # steps
N_LAYERS, D_MODEL, N_HEADS, N_KV_HEADS, D_MLP = 8, 128, 8, 4, 344


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. A step sums the gradients of `parts` batches of
    `tokens` tokens (pads included): each batch holds texts of one length, and so few skills."""

    steps: int = 3000
    tokens: int = 768
    parts: int = 3
    learning_rate: float = 2e-3
    warmup: int = 150
    weight_decay: float = 0.05
    clip: float = 1.0
    pool: int = POOL

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine down to 2 % of the peak."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


def new_model(tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlamaForCausalLM":
    """An untrained model of the embedded size, an ordinary Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.04,
        tie_word_embeddings=False,
        pad_token_id=SPECIAL.index(PAD),
        bos_token_id=SPECIAL.index(BOS),
        eos_token_id=SPECIAL.index(EOS),
    )
    return LlamaForCausalLM(config)


def train(out: Path, seed: int = 0, schedule: Schedule | None = None, device: str = "cpu") -> list[float]:
    """Train a model, save it with its tokenizer into `out`, and return the loss of every step (nats a weighted token).

    `device` is a torch device. Nothing but `out` is written.
    """
    schedule = schedule or Schedule()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(out)
    model = new_model(tokenizer, seed)
    torch.nn.Module.to(model, torch.device(device))
    losses = []
    for loss in _steps(model, batches(tokenizer, seed, schedule.tokens, schedule.pool), schedule, device):
        losses.append(loss)
        if len(losses) % SAVE_EVERY == 0 or len(losses) == schedule.steps:
            model.save_pretrained(out)
    return losses


def _steps(model: "LlamaForCausalLM", source: Iterator[Batch], schedule: Schedule, device: str) -> Iterator[float]:
    optimizers = _optimizers(model, schedule)
    model.train()
    began = time.monotonic()
    for step in range(schedule.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.zero_grad(set_to_none=True)
        loss = 0.0
        for batch in islice(source, schedule.parts):
            part = _loss(model, batch, device) / schedule.parts
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        for optimizer in optimizers:
            optimizer.step()
        if step % 100 == 0 or step == schedule.steps - 1:
            log.info("step %d of %d, loss %.4f, %.0f s", step, schedule.steps, loss, time.monotonic() - began)
        yield loss


def _optimizers(model: "LlamaForCausalLM", schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, its steps scaled to those of AdamW; AdamW for embeddings and gains."""
    inside = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    chosen = {id(weight) for weight in inside}
    outside = [weight for weight in model.parameters() if id(weight) not in chosen]
    decay = schedule.weight_decay
    return [
        torch.optim.Muon(inside, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outside, betas=(0.9, 0.98), weight_decay=decay),
    ]


def _loss(model: "LlamaForCausalLM", batch: Batch, device: str) -> torch.Tensor:
    """Weighted mean cross-entropy of each next token."""
    ids, weights = batch.ids.to(device), batch.weights.to(device)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (each * wanted).sum() / wanted.sum()


def main() -> None:
    """Command line of the training script; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m conceptlab.worlds.default.train", description="Train the default.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Schedule.steps, help="optimizer steps of about 2200 tokens")
    parser.add_argument("--device", default="cpu", help="torch device, for example cuda")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.out, options.seed, Schedule(steps=options.steps), options.device)


if __name__ == "__main__":
    main()
