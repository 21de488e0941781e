"""Small transformers of several widths, trained to name words from descriptions, and to change one property of a word.

36 words: four categories, three colours, three sizes, one word for each combination; each property has four ways to say it. Texts
are lines `DESCRIPTION => WORD ;`, three together; a description says the three properties in any order, each in one of its ways.
One way in four combinations is never seen in training (the numbers of the three ways add up to a multiple of four), so that the
paraphrases that are tested are new, and every way of saying has been seen in others. A third of the texts is another task: `like
WORD but WAY => WORD'`, the word with one property exchanged; a fifth of these is left out and tested. In the null twin every text
deals the words anew to the combinations, so there is nothing to learn. Ordinary LlamaForCausalLM of two layers; nothing inside is
planted. The short schedule was chosen on seeds 100 to 103.
Task after the row's own check. Cost: 1 to 4 s of one core by width.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.data.dictionary import Entry
from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, train_model, trained
from conceptlab.worlds.fresh_models import fresh_llama
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SIZES, WAYS = (4, 3, 3), 4  # categories, colours, sizes; ways of saying each
KINDS = ("category", "colour", "size")
COMBINATIONS = tuple(product(*(range(n) for n in SIZES)))
ORDERS = tuple(permutations(range(3)))
NAMES = tuple(f"word{''.join(map(str, c))}" for c in COMBINATIONS)
SAID = {
    (kind, value, way): f"{KINDS[kind]}{value}{'abcd'[way]}"
    for kind, n in enumerate(SIZES)
    for value in range(n)
    for way in range(WAYS)
}
ARROW, STOP = "=>", ";"
WORDS = (*NAMES, *SAID.values(), ARROW, STOP, "like", "but")
WIDTHS, FEW = (4, 8, 16, 32), (4, 16, 32)  # FEW: of the quick form
N_LAYERS, LONGEST, BATCH, LINES = 2, 64, 64, 3
SCHEDULE = Schedule(steps=100, learning_rate=1.5e-2, warmup=30, optimizer="muon")
SHORT = Schedule(steps=65, learning_rate=2e-2, warmup=20, optimizer="muon")  # of quick forms


def trained_dictionary(
    width: int,
    *,
    seed: int = 0,
    null: bool = False,
    schedule: Schedule = SCHEDULE,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:
    """The trained model of one width (from the cache where it is)."""
    settings = {"seed": seed, "width": width, "null": null, **asdict(schedule)}
    make, train = (
        partial(_model, seed, width),
        partial(_train, seed=seed, null=null, schedule=schedule, progress=progress),
    )
    return trained("reverse-dictionary", settings, make, train, cache=cache, progress=progress)


def dictionary_tokenizer() -> "PreTrainedTokenizerFast":
    """Its words."""
    return word_tokenizer(WORDS, LONGEST)


def entries(seed: int, *, unseen: bool, per_word: int = 4) -> list[Entry]:
    """`per_word` descriptions of every word, of ways of saying that were never in training together (or of seen ones)."""
    rng = np.random.default_rng([seed, 5, int(unseen)])
    ways = [w for w in product(range(WAYS), repeat=3) if (sum(w) % WAYS == 0) == unseen]
    found = []
    for name, combination in zip(NAMES, COMBINATIONS, strict=True):
        for way in rng.permutation(len(ways))[:per_word]:
            order = ORDERS[rng.integers(len(ORDERS))]
            said = [SAID[k, combination[k], ways[way][k]] for k in order]
            features = tuple(f"{KINDS[k]} {combination[k]}" for k in (1, 2))
            found.append(Entry(" ".join(said), name, (), f"{KINDS[0]} {combination[0]}", features))
    return found


def compositions(seed: int) -> tuple[list[str], list[str]]:
    """Prompts and answers of the other task that are left out of training, said in all ways."""
    prompts, answers = [], []
    for (a, kind, b), out in zip(_changes(), left_out(seed), strict=True):
        for way in range(WAYS if out else 0):
            prompts.append(f"like {NAMES[a]} but {SAID[kind, COMBINATIONS[b][kind], way]} {ARROW}")
            answers.append(NAMES[b])
    return prompts, answers


def left_out(seed: int) -> np.ndarray:
    """Which changes of one property [change] training never asks for: a fifth of them."""
    n = len(_changes())
    return np.random.default_rng([seed, 7]).permutation(n) < n // 5


def _changes() -> list[tuple[int, int, int]]:
    """(word, kind of property, word with another value of it) of every change."""
    place = {c: i for i, c in enumerate(COMBINATIONS)}
    return [
        (i, kind, place[(*c[:kind], value, *c[kind + 1 :])])
        for i, c in enumerate(COMBINATIONS) for kind, n in enumerate(SIZES) for value in range(n) if value != c[kind]
    ]  # fmt: skip


def _model(seed: int, width: int) -> "PreTrainedModel":
    return fresh_llama(
        seed,
        n_tokens=len(SPECIALS) + len(WORDS),
        longest=LONGEST,
        d_model=width,
        n_layers=N_LAYERS,
        n_heads=max(1, width // 16),
        d_mlp=4 * width,
        spread=0.1,
    )


def _train(model: "PreTrainedModel", *, seed: int, null: bool, schedule: Schedule, progress: Progress):
    source = _batches(seed, np.random.default_rng(seed), null=null)
    return train_model(model, source, schedule, progress=progress, label=f"a dictionary (seed {seed})")


def _batches(seed: int, rng: np.random.Generator, *, null: bool) -> Iterator[TokenBatch]:
    """Endless batches of LINES lines; the words after the arrows (and what ends a line) are predicted."""
    ids = {word: i for i, word in enumerate(WORDS, start=len(SPECIALS))}
    said = np.array(
        [[[ids[SAID[k, v % n, w]] for w in range(WAYS)] for v in range(max(SIZES))] for k, n in enumerate(SIZES)]
    )
    combos, names = np.array(COMBINATIONS), np.array([ids[n] for n in NAMES])
    ways = np.array([w for w in product(range(WAYS), repeat=3) if sum(w) % WAYS])
    changes = np.array([c for c, out in zip(_changes(), left_out(seed), strict=True) if not out])
    orders, kinds = np.array(ORDERS), np.arange(3)
    while True:
        n = BATCH * LINES
        word, way, order = (
            rng.integers(0, len(combos), n),
            ways[rng.integers(0, len(ways), n)],
            orders[rng.integers(0, 6, n)],
        )
        lines = np.zeros((n, 7), dtype=int)
        lines[:, :3] = np.take_along_axis(said[kinds, combos[word], way], order, 1)
        answer = word
        other = np.repeat(rng.random(BATCH) < 1 / 3, LINES)
        a, kind, b = changes[rng.integers(0, len(changes), n)].T
        lines[other, :3] = np.stack([np.full(n, ids["like"]), names[a], np.full(n, ids["but"])], 1)[other]
        lines[:, 3] = np.where(other, said[kind, combos[b, kind], way[:, 0]], 0)
        answer = np.where(other, b, answer)
        if null:
            answer = rng.integers(0, len(names), n)
        lines[:, 4], lines[:, 5], lines[:, 6] = ids[ARROW], names[answer], ids[STOP]
        yield _packed(lines, other)


def _packed(lines: np.ndarray, other: np.ndarray) -> TokenBatch:
    """Lines [line, 7] as texts; the empty fourth place of the first task is left out."""
    rows = np.zeros((BATCH, 1 + 7 * LINES), dtype=int)
    wanted = np.zeros(rows.shape)
    rows[:, 0] = 1
    for task in (False, True):
        here = other.reshape(BATCH, LINES)[:, 0] == task
        kept = [0, 1, 2, 3, 4, 5, 6] if task else [0, 1, 2, 4, 5, 6]
        length = LINES * len(kept)
        rows[here, 1 : 1 + length] = lines[other == task][:, kept].reshape(-1, length)
        ends = np.tile([*[0.0] * (len(kept) - 2), 1.0, 0.3], LINES)
        wanted[here, 1 : 1 + length] = ends
    return TokenBatch(torch.from_numpy(rows), torch.from_numpy(wanted).float())
