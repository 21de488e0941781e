"""A small model trained on two programming dialects and on prose: some of its neurons can serve code only, the others prose only.

Host: GPT2LMHeadModel, 2 layers, 4 heads, d_model 64, 128 ReLU neurons a layer, trained in about half a minute of one core. Planted:
dimension 0 of the stream says code (+) or prose (-), written by the embeddings and by nothing else; the first `PRIVATE` neurons of
every layer are shut where it says prose and the others where it says code, by weights that are put back after every step. What the
neurons then do is learned. Attention, which is learned too, serves both. The null twin has no such weights: every neuron is free.

Code: statements of a dialect's keyword, brackets that nest and close in order, names and `;`. Prose: subject, verb, object, place,
each noun with the verbs that suit it. Dialects share brackets and names, not keywords; prose shares no word with code.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.runs import SILENT, Progress
from conceptlab.train import Schedule, TokenBatch, Trained, Training, train_model, trained
from conceptlab.worlds.flagged_neurons import put_flag
from conceptlab.worlds.fresh_models import fresh_gpt2
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

KEYWORDS = {"dialect 1": ("def", "let", "ret"), "dialect 2": ("fun", "var", "out")}
BRACKETS = {"(": ")", "[": "]", "{": "}"}
NAMES = ("foo", "bar", "baz", "qux")
CODE = (*(w for words in KEYWORDS.values() for w in words), *BRACKETS, *BRACKETS.values(), *NAMES, ";")
NOUNS = ("dog", "cat", "girl", "boy", "crow", "fish")
VERBS = ("chased", "saw", "fed", "met", "heard", "lost", "liked", "drew", "found")
PLACES = ("outside", "at-home", "in-spring", "by-night", "on-hills", "in-town")
PROSE = ("the", "a", *NOUNS, *VERBS, *PLACES, ".")
WORDS = (*CODE, *PROSE)
N_LAYERS, N_HEADS, D_MODEL, D_MLP, LONGEST = 2, 4, 64, 128, 24
PRIVATE = 32
BATCH = 64
CORPORA = (*KEYWORDS, "prose")
SCHEDULE = Schedule(steps=400, learning_rate=3e-3, warmup=30)


def tokenizer() -> "PreTrainedTokenizerFast":
    """Its words."""
    return word_tokenizer(WORDS, LONGEST)


def code_and_prose(
    *, seed: int = 0, null: bool = False, schedule: Schedule = SCHEDULE, cache: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:  # fmt: skip
    """The trained model (from the cache where it is)."""
    settings = {"seed": seed, "null": null, "steps": schedule.steps, "rate": schedule.learning_rate}
    train = partial(_train, seed=seed, null=null, schedule=schedule, progress=progress)
    return trained("code-and-prose", settings, partial(_fresh, seed), train, cache=cache, progress=progress)


def texts(corpus: str, n: int, seed: int) -> list[str]:
    """`n` texts of "dialect 1", "dialect 2" or "prose", of 23 words each."""
    rng = np.random.default_rng([seed, CORPORA.index(corpus)])
    write = _prose if corpus == "prose" else partial(_code, keywords=KEYWORDS[corpus])
    found = []
    for _ in range(n):
        words: list[str] = []
        while len(words) < LONGEST - 1:
            words += write(rng)
        found.append(" ".join(words[: LONGEST - 1]))
    return found


def true_weights(model: "PreTrainedModel") -> dict[str, torch.Tensor]:
    """Of every MLP matrix the weights that belong to a neuron for code, as a mask of its shape."""
    found: dict[str, torch.Tensor] = {}
    for name, weight in model.named_parameters():
        if name.endswith("c_fc.weight"):
            found[name] = (torch.arange(D_MLP) < PRIVATE)[None].expand(weight.shape)
        elif name.endswith("mlp.c_proj.weight"):
            found[name] = (torch.arange(D_MLP) < PRIVATE)[:, None].expand(weight.shape)
    return found


def _code(rng: np.random.Generator, *, keywords: tuple[str, ...]) -> list[str]:
    """One statement: a keyword, a name, brackets with names inside, `;`."""
    words, opened = [str(rng.choice(keywords)), str(rng.choice(NAMES))], []
    for _ in range(int(rng.integers(2, 5))):
        opened.append(str(rng.choice(list(BRACKETS))))
        words += [opened[-1], str(rng.choice(NAMES))]
        if rng.random() < 0.3:
            words.append(BRACKETS[opened.pop()])
    return [*words, *(BRACKETS[b] for b in reversed(opened)), ";"]


def _prose(rng: np.random.Generator) -> list[str]:
    """One sentence; a noun goes with three of the verbs, a verb with two of the places."""
    noun, other = rng.choice(len(NOUNS), 2)
    verb = int((noun + rng.integers(3)) % len(VERBS))
    place = int((2 * verb + rng.integers(2)) % len(PLACES))
    return [
        *(str(w) for w in (rng.choice(["the", "a"]), NOUNS[noun], VERBS[verb])),
        "the",
        NOUNS[other],
        PLACES[place],
        ".",
    ]


def _fresh(seed: int) -> "PreTrainedModel":
    return fresh_gpt2(
        seed,
        n_tokens=len(SPECIALS) + len(WORDS),
        longest=LONGEST,
        d_model=D_MODEL,
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        d_mlp=D_MLP,
        activation_function="relu",
    )


def _train(model: "PreTrainedModel", *, seed: int, null: bool, schedule: Schedule, progress: Progress) -> Training:
    start = len(SPECIALS)
    kinds = range(start, start + len(CODE)), range(start + len(CODE), start + len(WORDS))
    side = torch.where(torch.arange(D_MLP) < PRIVATE, 1.0, -1.0)

    def put_back(*_: object) -> None:
        if not null:
            put_flag(model, *kinds, side)

    put_back()
    return train_model(model, _batches(seed), schedule, progress=progress, label="code and prose", on_step=put_back)


def _batches(seed: int) -> Iterator[TokenBatch]:
    known = {word: i for i, word in enumerate(WORDS, start=len(SPECIALS))}
    step = 0
    while True:
        rows = [
            text
            for name in CORPORA
            for text in texts(name, BATCH * (1 + (name == "prose")) // 4, seed * 100_003 + step)
        ]
        ids = torch.tensor([[1, *(known[word] for word in text.split())] for text in rows])
        step += 1
        yield TokenBatch(ids, (ids != 1).float())
