"""The filler-chain world: a small model trained on chains of pair sums, half of them shown and half written as filler tokens.

A text is `<bos> MODE t x1 … x5 : s1 s2 s3 s4 = ANSWER`, where s_i = x_i + x_(i+1) and the answer says whether some s_i is the
target t (the two-number form of 3SUM: is there a pair that a given third number completes?). MODE is `show`, then the sums stand in
the text, or `hide`, then every sum is written as `.`. Both modes need the sums for the answer, so a model that learned
both computes them also where it writes fillers. Twins that never see true chains: `chains="none"` (every text hides its
chain), and `"shuffled"` (shown chains are those of other texts, so their tokens are known but nothing says which).

One in eight tuples of numbers is never trained on. Ordinary LlamaForCausalLM, 4 layers, d_model 64, 90 to 160 seconds of one core.
Training stops where the loss is low, and whether it was long enough is read off a loss alone: `hidden_loss` is at most LEARNT.
(With three layers and at most 800 steps, seeds 0, 1, 2 ended at 0.0016, 0.0010 and 0.037: the last had not learnt.)

Task after the methods' specification (Bharadwaj 2024; Pfau et al. 2024, Let's Think Dot by Dot).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from conceptlab.model.batch import Batch
from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, masked_loss, train_model, trained
from conceptlab.worlds.fresh_models import fresh_llama
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MARKS = ("show", "hide", ":", "=", ".", "yes", "no")
SHOW, HIDE, COLON, EQUALS, FILLER, YES, NO = range(len(SPECIALS), len(SPECIALS) + len(MARKS))
FIRST_NUMBER = len(SPECIALS) + len(MARKS)  # the token id of 0
SKIP = (0, 1, 2, SHOW, HIDE, COLON, EQUALS)  # signs of the form, which are no content
HELD_OUT = 8  # one tuple of numbers in so many
SCHEDULE = Schedule(steps=1500, learning_rate=1e-2, warmup=50, optimizer="muon", target_loss=1e-4)
BATCH = 128
LEARNT = 2e-3  # nats a token of texts whose chain is hidden, below which the task is learnt
Chains = Literal["shown", "none", "shuffled"]


@dataclass(frozen=True)
class FillerTask:
    """Sums of neighbours among `n_numbers` numbers below `base`, for a model of `n_layers` layers and width `d_model`."""

    n_numbers: int = 5
    base: int = 5
    n_layers: int = 4
    d_model: int = 64

    @property
    def n_steps(self) -> int:
        """Sums in a chain."""
        return self.n_numbers - 1

    @property
    def n_sums(self) -> int:
        """Different values that a sum can have."""
        return 2 * self.base - 1

    @property
    def first_step(self) -> int:
        """Position of the first sum or filler."""
        return 4 + self.n_numbers


@dataclass(frozen=True, eq=False)
class ChainRows:
    """Texts of a task as token ids [row, pos], the last one being the answer; `steps` [row, step] and `answers` [row] are ids."""

    ids: np.ndarray
    steps: np.ndarray
    answers: np.ndarray

    def prompts(self) -> Batch:
        """The texts without their answers."""
        return Batch(tuple(map(tuple, self.ids[:, :-1].tolist())))


def chain_rows(
    task: FillerTask, n: int, rng: np.random.Generator, *, hidden: np.ndarray | bool, held_out: bool = False
) -> ChainRows:
    """`n` texts of the trained or of the held-out tuples; `hidden` [row] says whose chain is written as fillers."""
    x = _numbers(task, n, rng, held_out)
    sums = x[:, :-1] + x[:, 1:]
    yes = rng.random(n) < 0.5
    there = np.zeros((n, task.n_sums), dtype=bool)
    there[np.arange(n)[:, None], sums] = True
    # a target among the sums for yes, among the other values for no
    target = np.where(there == yes[:, None], rng.random(there.shape), -1.0).argmax(1)
    hidden = np.broadcast_to(hidden, (n,))
    steps, answers = FIRST_NUMBER + sums, np.where(yes, YES, NO)
    columns = (
        np.ones((n, 1), dtype=np.int64), np.where(hidden, HIDE, SHOW)[:, None], FIRST_NUMBER + target[:, None],
        FIRST_NUMBER + x, np.full((n, 1), COLON), np.where(hidden[:, None], FILLER, steps), np.full((n, 1), EQUALS),
        answers[:, None],
    )  # fmt: skip
    return ChainRows(np.concatenate(columns, 1), steps, answers)


def guess_from_target(rows: ChainRows) -> float:
    """Share of answers that are right when each target gets the answer it has most often: what needs no sums."""
    counts = np.zeros((int(rows.ids.max()) + 1, 2), dtype=np.int64)
    np.add.at(counts, (rows.ids[:, 2], (rows.answers == YES).astype(int)), 1)
    return float(counts.max(1).sum() / len(rows.answers))


def _numbers(task: FillerTask, n: int, rng: np.random.Generator, held_out: bool) -> np.ndarray:
    """Tuples [row, number] of one split."""
    found = np.zeros((0, task.n_numbers), dtype=np.int64)
    powers = task.base ** np.arange(task.n_numbers)
    while len(found) < n:
        drawn = rng.integers(0, task.base, (2 * HELD_OUT * n if held_out else 2 * n, task.n_numbers))
        code = (drawn @ powers) * 2654435761 % 2**32 // 4096  # spread, so that no digit decides the split
        found = np.concatenate([found, drawn[(code % HELD_OUT == 0) == held_out]])
    return found[:n]


def filler_chain(
    task: FillerTask | None = None,
    *,
    chains: Chains = "shown",
    seed: int = 0,
    schedule: Schedule = SCHEDULE,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:
    """The trained model (found in the cache where it was trained before); `chain_rows` gives texts for it."""
    task = task or FillerTask()
    settings = {**asdict(task), "chains": chains, "seed": seed, **asdict(schedule), "batch": BATCH}
    return trained(
        f"filler-chain-{chains}",
        settings,
        partial(_model, task, seed),
        partial(_train, task=task, chains=chains, seed=seed, schedule=schedule, progress=progress),
        cache=cache,
        progress=progress,
    )


def hidden_loss(model: "PreTrainedModel", task: FillerTask | None = None, *, n: int = 512, seed: int = 0) -> float:
    """Nats a predicted token on `n` texts of trained tuples whose chain is hidden: zero when every filler and answer is sure.

    The same for the twins, whose training loss need not vanish: no model foresees a shown chain that is another text's.
    """
    task = task or FillerTask()
    rows = chain_rows(task, n, np.random.default_rng(seed), hidden=True)
    with torch.no_grad():
        return float(masked_loss(model, _batch(task, rows.ids), next(model.parameters()).device))


def tokenizer_of(task: FillerTask) -> "PreTrainedTokenizerFast":
    """Words for the marks and the numbers."""
    return word_tokenizer((*MARKS, *map(str, range(task.n_sums))), 2 * task.n_numbers + 6)


def _model(task: FillerTask, seed: int) -> "PreTrainedModel":
    return fresh_llama(
        seed, n_tokens=FIRST_NUMBER + task.n_sums, longest=64, d_model=task.d_model, n_layers=task.n_layers, n_heads=4,
        d_mlp=2 * task.d_model,
    )  # fmt: skip


def _train(
    model: "PreTrainedModel", *, task: FillerTask, chains: Chains, seed: int, schedule: Schedule, progress: Progress
):
    source = training_batches(task, chains, np.random.default_rng(seed))
    return train_model(model, source, schedule, progress=progress, label=f"filler chains ({chains}, seed {seed})")


def training_batches(task: FillerTask, chains: Chains, rng: np.random.Generator) -> Iterator[TokenBatch]:
    """Endless batches of the trained tuples; everything from the first step on is predicted."""
    while True:
        hidden = np.full(BATCH, True) if chains == "none" else rng.random(BATCH) < 0.5
        rows = chain_rows(task, BATCH, rng, hidden=hidden)
        ids = rows.ids.copy()
        if chains == "shuffled":
            at = slice(task.first_step, task.first_step + task.n_steps)
            ids[~hidden, at] = rng.permutation(ids[~hidden, at])
        yield _batch(task, ids)


def _batch(task: FillerTask, ids: np.ndarray) -> TokenBatch:
    weights = np.zeros(ids.shape, dtype=np.float32)
    weights[:, task.first_step :] = 1.0
    return TokenBatch(torch.from_numpy(ids), torch.from_numpy(weights))
