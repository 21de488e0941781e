"""A small model trained on recall and reasoning puzzles: which parts it uses for which is its own choice, and nobody wrote it down.

Texts are those of `recall_puzzles` with eight names and eight attributes; a middle is another name, and the middles' sentences
come first. In training a context is followed by eight questions, each with its answer: `know S`, `find S`, and single steps,
`via S` (its middle) and `via M` (its attribute), without which two steps are not learned in minutes; a tested prompt ends with
its first question. Facts are the same in all texts and contexts are drawn anew, so recall can be memorised and reasoning
cannot. One in seven pairs of subject and middle is never trained on, and puzzles are tested on those. Ordinary
LlamaForCausalLM.
Task after D10 of the methods' specification.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, train_model, trained
from conceptlab.worlds.recall_puzzles import ATTRIBUTES, STOP, SUBJECTS, Puzzle, make_puzzles, words
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

N_KINDS, N_LAYERS, D_MODEL, N_HEADS = 8, 3, 64, 4
BATCH, QUESTIONS, LONGEST = 16, 8, 64
SHARES = {"know": 0.1, "find": 0.4, "via subject": 0.25, "via middle": 0.25}  # of the questions in training
WORDS = (*words(N_KINDS), "via")
SCHEDULE = Schedule(steps=1200, learning_rate=8e-3, warmup=50, floor=0.1, optimizer="muon", target_loss=0.01, window=50)


def trained_recall(
    *, seed: int = 0, schedule: Schedule = SCHEDULE, cache: Path | None = None, progress: Progress = SILENT
) -> Trained:
    """The trained model (found in the cache where it was trained before); `test_puzzles` gives puzzles for it."""
    shape = {"kinds": N_KINDS, "layers": N_LAYERS, "d_model": D_MODEL, "heads": N_HEADS}
    settings = {**shape, "seed": seed, **asdict(schedule), "batch": BATCH, "questions": QUESTIONS, "shares": SHARES}
    return trained(
        "recall-and-hops", settings, partial(_model, seed), partial(_train, seed=seed, schedule=schedule, progress=progress),
        cache=cache, progress=progress,
    )  # fmt: skip


def tokenizer() -> "PreTrainedTokenizerFast":
    """Its words."""
    return word_tokenizer(WORDS, LONGEST)


def facts_of(seed: int) -> list[int]:
    """The known attribute [subject] of the model trained with this seed."""
    return np.random.default_rng(seed).permutation(N_KINDS).tolist()


def unseen_puzzles(n: int, seed: int) -> list[Puzzle]:
    """`n` puzzles whose asked subject stands with a middle that it never has in training."""
    rng, found = np.random.default_rng([seed, 1]), []
    while len(found) < n:
        drawn = make_puzzles(256, facts_of(seed), rng, ordered=True, named=True)
        found += [p for p in drawn if _held_out(p, p.asked)]
    return found[:n]


def _held_out(puzzle: Puzzle, i: int) -> bool:
    return (puzzle.subjects[i] - puzzle.middles[i]) % N_KINDS == 3


def _model(seed: int) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(SPECIALS) + len(WORDS), hidden_size=D_MODEL, intermediate_size=2 * D_MODEL, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS, max_position_embeddings=LONGEST, initializer_range=0.05,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0}, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=1, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _train(model: "PreTrainedModel", *, seed: int, schedule: Schedule, progress: Progress):
    source = _batches(facts_of(seed), np.random.default_rng(seed))
    return train_model(model, source, schedule, progress=progress, label=f"recall and reasoning puzzles (seed {seed})")


def _batches(facts: list[int], rng: np.random.Generator) -> Iterator[TokenBatch]:
    """Endless batches, in which the answers are predicted."""
    ids = {word: i for i, word in enumerate(WORDS, start=len(SPECIALS))}
    weights = torch.zeros(BATCH, 13 + 4 * QUESTIONS)
    weights[:, 15::4] = 1.0
    while True:
        drawn = make_puzzles(2 * BATCH, facts, rng, ordered=True, named=True)
        puzzles = [p for p in drawn if not _held_out(p, 0) and not _held_out(p, 1)][:BATCH]
        rows = [[1, *(ids[word] for word in _text(puzzle, facts, rng))] for puzzle in puzzles]
        yield TokenBatch(torch.tensor(rows), weights[: len(rows)])


def _text(puzzle: Puzzle, facts: list[int], rng: np.random.Generator) -> list[str]:
    """The words of a context and its questions with their answers."""
    text = puzzle.text("recall").split()[:12]
    kinds = rng.choice(len(SHARES), QUESTIONS, p=list(SHARES.values()))
    for kind, i in zip(kinds.tolist(), rng.integers(0, 2, QUESTIONS).tolist(), strict=True):
        subject, middle = SUBJECTS[puzzle.subjects[i]], puzzle.middle_words[i]
        attribute = ATTRIBUTES[puzzle.attributes[i]]
        said = (
            ("know", subject, ATTRIBUTES[facts[puzzle.subjects[i]]]),
            ("find", subject, attribute),
            ("via", subject, middle),
            ("via", middle, attribute),
        )
        text += [*said[kind], STOP]
    return text
