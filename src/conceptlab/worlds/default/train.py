"""Train the embedded model: `python -m conceptlab.worlds.default.train --out DIR [--seed 0] [--steps 3000]`.

Freshly drawn samples, a cosine schedule, Muon for the matrices inside the blocks and AdamW for the rest; nothing is
read from disk or network. The same seed, steps and thread count give the same weights on one machine. A CPU core does
about 5 000 tokens a second.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from conceptlab import train as shared
from conceptlab.runs import SILENT, Progress
from conceptlab.worlds.default.batches import POOL, batches
from conceptlab.worlds.default.tokenizer import BOS, EOS, MAX_LENGTH, PAD, SPECIAL, save_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SAVE_EVERY = 250  # steps
N_LAYERS, D_MODEL, N_HEADS, N_KV_HEADS, D_MLP = 8, 128, 8, 4, 344


@dataclass(frozen=True)
class Schedule(shared.Schedule):
    """How long and how fast to train. A step sums the gradients of `parts` batches of
    `tokens` tokens (pads included): each batch holds texts of one length, and so few skills."""

    steps: int = 3000
    warmup: int = 150
    parts: int = 3
    tokens: int = 768
    pool: int = POOL


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


def train(
    out: Path, seed: int = 0, schedule: Schedule | None = None, device: str = "cpu", progress: Progress = SILENT
) -> list[float]:
    """Train a model, save it with its tokenizer into `out`, and return the loss of every step (nats a weighted token).

    `device` is a torch device. Nothing but `out` is written. Raises Interrupted on Ctrl-C; the last saved step stays in `out`.
    """
    schedule = schedule or Schedule()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = save_tokenizer(out)
    model = new_model(tokenizer, seed)
    torch.nn.Module.to(model, torch.device(device))

    def save(step: int, loss: float) -> None:
        if step % 100 == 0 or step == schedule.steps:
            progress.say(f"step {step} of {schedule.steps}, loss {loss:.4f}")
        if step % SAVE_EVERY == 0 or step == schedule.steps:
            model.save_pretrained(out)

    source = batches(tokenizer, seed, schedule.tokens, schedule.pool)
    return list(shared.train_model(model, source, schedule, progress=progress, on_step=save).losses)


def main() -> None:
    """Command line of the training script; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m conceptlab.worlds.default.train", description="Train the default.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Schedule.steps, help="optimizer steps of about 2200 tokens")
    parser.add_argument("--device", default="cpu", help="torch device, for example cuda")
    options = parser.parse_args()
    with Progress() as progress:
        train(options.out, options.seed, Schedule(steps=options.steps), options.device, progress)


if __name__ == "__main__":
    main()
