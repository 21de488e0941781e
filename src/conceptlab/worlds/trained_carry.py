"""A small transformer that adds without carrying, and its checkpoints while it is post-trained to carry.

A text is two numbers of two digits; the answer, one token, is how many tens their sum has: `3 8 + 2 5 =` is `6`. The base has seen
sums whose units stay below ten; post-training shows all of them, half with a carry, so that what was known is kept: supervised
("sft"), or by its own answers, of which the right ones are rewarded ("reinforce": reward 1, less the batch's mean reward).
Host: GPT2LMHeadModel, 3 layers, 4 heads, d_model 64, 128 GELU neurons a layer. A fifth of all pairs of numbers is never trained on;
the prompts are of those. Nothing about its inside is planted. Task after the published row's own small check.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from conceptlab.data.answer_pairs import AnswerPairs
from conceptlab.errors import InputError
from conceptlab.runs import SILENT, Progress
from conceptlab.train import Loss, Schedule, TokenBatch, Trained, Training, masked_loss, train_model, trained
from conceptlab.worlds.fresh_models import fresh_gpt2
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WORDS = (*(str(i) for i in range(20)), "+", "=")
N_LAYERS, N_HEADS, D_MODEL, D_MLP, LONGEST, BATCH = 3, 4, 64, 128, 8, 256
BASE_STEPS, STAGES = 500, (30, 100, 200)  # of post-training, each from the base on
REWARDED = (100, 300, 600)  # stages of post-training by reward
SAMPLES = 8  # answers drawn for every sum
HELD_OUT = 5  # one pair in so many
By = Literal["sft", "reinforce"]


def carry_tokenizer() -> "PreTrainedTokenizerFast":
    """Numbers 0 to 19 and two signs, one token each."""
    return word_tokenizer(WORDS, LONGEST)


def trained_carry(
    steps: int, *, by: By = "sft", seed: int = 0, cache: Path | None = None, progress: Progress = SILENT
) -> Trained:
    """The checkpoint after `steps` of post-training (0: the base), from the cache where it is. Cost: about 0.03 s a step.

    Raises InputError for another `by`.
    """
    if by not in ("sft", "reinforce"):
        raise InputError(f"{by!r} is no way of post-training here; use sft or reinforce")
    settings: dict[str, Any] = {"base": BASE_STEPS, "steps": steps, "seed": seed, "held_out": HELD_OUT, "batch": BATCH}
    settings |= {"by": by, "samples": SAMPLES} if steps and by == "reinforce" else {}
    make = partial(_fresh, seed) if steps == 0 else partial(_base, seed, cache, progress)
    train = partial(_train, steps=steps, by=by, seed=seed, progress=progress)
    return trained("carry", settings, make, train, cache=cache, progress=progress)


def carry_pairs(task: str, n: int, seed: int = 0) -> AnswerPairs:
    """`n` held-out pairs of `carry` (the corrupted text needs none, the tens are the same) or `plain` (other tens, no carry)."""
    rng = np.random.default_rng([seed, task == "carry"])
    rows = []
    while len(rows) < n:
        a, b, other = rng.integers(0, 10, 2), rng.integers(0, 10, 2), int(rng.integers(0, 10))
        carries, would = a[1] + b[1] >= 10, other + b[1] >= 10
        if task == "carry" and held_out(a, b) and carries and not would:
            rows.append((_text(a, b), _text((a[0], other), b), a[0] + b[0] + 1, a[0] + b[0]))
        if task == "plain" and held_out(a, b) and not carries and other != a[0]:
            rows.append((_text(a, b), _text((other, a[1]), b), a[0] + b[0], other + b[0]))
    clean, corrupted, answer, distractor = zip(*rows, strict=True)
    return AnswerPairs(task, clean, corrupted, tuple(map(str, answer)), tuple(map(str, distractor)))


def held_out(a: Any, b: Any) -> Any:
    """Whether a pair of numbers, digits first and second [..., 2], is never trained on."""
    a, b = np.asarray(a), np.asarray(b)
    return (a[..., 0] + 3 * a[..., 1] + 7 * b[..., 0] + 4 * b[..., 1]) % HELD_OUT == 0


def _text(a: Any, b: Any) -> str:
    return f"{a[0]} {a[1]} + {b[0]} {b[1]} ="


def _fresh(seed: int) -> "PreTrainedModel":
    return fresh_gpt2(
        seed,
        n_tokens=len(SPECIALS) + len(WORDS),
        longest=LONGEST,
        d_model=D_MODEL,
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        d_mlp=D_MLP,
    )


def _base(seed: int, cache: Path | None, progress: Progress) -> "PreTrainedModel":
    return trained_carry(0, seed=seed, cache=cache, progress=progress).model


def _train(model: "PreTrainedModel", *, steps: int, by: By, seed: int, progress: Progress) -> Training:
    if steps == 0:
        schedule = Schedule(steps=BASE_STEPS, learning_rate=3e-3, warmup=30, target_loss=0.005)
    else:
        schedule = Schedule(steps=steps, learning_rate=1e-3, warmup=10, floor=1.0)
    source = _batches(np.random.default_rng([seed, steps]), carrying=0.5 if steps else 0.0)
    loss = (
        reward_loss(torch.Generator().manual_seed(1000 * seed + steps)) if steps and by == "reinforce" else masked_loss
    )
    label = f"sums (seed {seed}, {steps} steps of carrying, {by})"
    return train_model(model, source, schedule, loss=loss, progress=progress, label=label)


def reward_loss(generator: torch.Generator) -> Loss:
    """REINFORCE (Williams 1992): the policy's own answers, log P of each times its reward less the mean reward of the batch."""

    def of(model: nn.Module, batch: TokenBatch, device: torch.device) -> Tensor:
        ids = batch.ids.to(device)
        logp = model(input_ids=ids[:, :-1], use_cache=False).logits[:, -1].log_softmax(-1)
        said = torch.multinomial(logp.detach().exp().cpu(), SAMPLES, replacement=True, generator=generator).to(device)
        reward = (said == ids[:, -1:]).float()
        return -((reward - reward.mean()) * logp.gather(1, said)).mean()

    return of


def _batches(rng: np.random.Generator, *, carrying: float) -> Iterator[TokenBatch]:
    """Endless batches of which the share `carrying` carries; only the answer is learned."""
    ids = {word: i + len(SPECIALS) for i, word in enumerate(WORDS)}
    digits = np.stack(np.meshgrid(*[np.arange(10)] * 4, indexing="ij"), -1).reshape(-1, 4)
    a, b = digits[:, :2], digits[:, 2:]
    shown, carries = ~held_out(a, b), a[:, 1] + b[:, 1] >= 10
    tens = a[:, 0] + b[:, 0] + carries
    first = len(SPECIALS)  # the token of 0
    sign = [np.full(len(a), ids[w]) for w in ("+", "=")]
    rows = np.stack([np.ones(len(a), dtype=int), *(first + a.T), sign[0], *(first + b.T), sign[1], first + tens], 1)
    sets = [np.flatnonzero(shown & kind) for kind in (~carries, carries)]
    weights = torch.zeros(BATCH, rows.shape[1])
    weights[:, -1] = 1.0
    while True:
        n = round(carrying * BATCH)
        picked = np.concatenate([rng.choice(sets[0], BATCH - n), rng.choice(sets[1], n)])
        yield TokenBatch(torch.from_numpy(rows[picked]), weights)
