"""Six languages over twelve shared concepts, a pivot vocabulary in which the middle layers speak, and neurons of each language.

Host: GPT2LMHeadModel, 3 layers x 2 heads (silent), ReLU MLPs of `D_MLP`, neutral norms (see `weights_by_hand`). A text is
`<bos>` and ten words of one language; after the word of concept c comes that of the next concept in one order for all
languages. A word's embedding says its concept and its language.

    L0.mlp next      neuron c: relu(concept_c) writes concept next(c) into `pivot`, whatever the language
    L2.mlp language  `EACH` neurons a language, relu(2 lang_k - 1): together write `speak_k`, which the words of language k
                     read; the words of the pivot read `pivot` alone and are the better ones until then
    decoys           neurons that fire for one word of one language (rare), and neurons that read concepts at random

Languages 5 and 6 are near-duplicates: they share all words but one and the language's neurons. In the null twin language
neurons fire for every language alike, so that none is told from another. Construction after B6 and C7 of the methods'
specification.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import Layout, Neuron, balance_writes, empty_gpt2, set_neuron, set_vocabulary
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

N_CONCEPTS, N_KINDS, EACH, RARE, D_MLP, N_POSITIONS, LENGTH = 12, 5, 6, 20, 100, 16, 10
LANGUAGES = ("alpha", "beta", "gamma", "delta", "epsilon", "epsilon-two")  # the last two are near-duplicates
ALONE = LANGUAGES[:4]
PIVOT = tuple(f"pivot{c}" for c in range(N_CONCEPTS))
OWN = {name: tuple(f"{name}{c}" for c in range(N_CONCEPTS)) for name in LANGUAGES[:N_KINDS]}
OTHER = "epsilon-two0"  # the one word of the near-duplicate that differs
WORDS = (*PIVOT, *(w for words in OWN.values() for w in words), OTHER)
GAIN, LEAD = 10.0, 4.0
STREAM = Layout.of(64, concept=N_CONCEPTS, lang=N_KINDS, one=1, pivot=N_CONCEPTS, speak=N_KINDS, spare=2, balance=1)


def words_of(language: str) -> tuple[str, ...]:
    """The twelve words of a language."""
    return (OTHER, *OWN[LANGUAGES[4]][1:]) if language == LANGUAGES[5] else OWN[language]


def pivot_languages(*, seed: int = 0, null: bool = False, n_texts: int = 40) -> PlantedWorld:
    """Build the world. `prompts`: texts of every language, row by row the same concepts, with answers (the next word); and
    `parallel LANGUAGE`, concepts in any order. `truth`: `neurons` by language (those of the near-duplicates under both),
    `order` of the concepts."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    order = rng.permutation(N_CONCEPTS)
    after = np.empty(N_CONCEPTS, dtype=int)
    after[order] = np.roll(order, -1)
    places = torch.randperm(D_MLP, generator=generator).tolist()
    starts, prompts, answers = rng.integers(0, N_CONCEPTS, n_texts), {}, {}
    for language in LANGUAGES:
        rows = [_chain(int(start), after, LENGTH + 1) for start in starts]
        prompts[language] = tuple(" ".join(words_of(language)[c] for c in row[:-1]) for row in rows)
        answers[language] = tuple(words_of(language)[row[-1]] for row in rows)
    loose = rng.integers(0, N_CONCEPTS, (n_texts, LENGTH))  # sentences that differ, for what lies closest to what
    for language in LANGUAGES:
        prompts[f"parallel {language}"] = tuple(" ".join(words_of(language)[c] for c in row) for row in loose.tolist())
    named = {name: [f"L2.N{places[min(k, 4) * EACH + j]}" for j in range(EACH)] for k, name in enumerate(LANGUAGES)}
    return PlantedWorld(
        "pivot_languages", f"GPT2LMHeadModel, 3 layers, d_model {STREAM.width}, ReLU MLPs of {D_MLP}",
        _model(generator, after.tolist(), places, null=null), word_tokenizer(WORDS, N_POSITIONS), prompts, answers,
        truth={"neurons": {} if null else named, "order": order.tolist()}, null=null,
    )  # fmt: skip


def _chain(start: int, after: np.ndarray, n: int) -> list[int]:
    found = [start]
    while len(found) < n:
        found.append(int(after[found[-1]]))
    return found


def _model(generator: torch.Generator, after: list[int], places: list[int], *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=3, n_heads=2, d_head=STREAM.width // 2, d_mlp=D_MLP, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(3):
        for neuron in range(D_MLP):
            set_neuron(model, layer, neuron, _background(generator))
    for c, to in enumerate(after):
        set_neuron(model, 0, c, Neuron(STREAM.unit("concept", c), STREAM.unit("pivot", to)))
    for at, neuron in zip(places, _last(null=null), strict=False):
        set_neuron(model, 2, at, neuron)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("one")
    for i, word in enumerate(WORDS):
        embed[len(SPECIALS) + i], unembed[len(SPECIALS) + i] = _ends(word)
    set_vocabulary(model, embed=embed, unembed=unembed, positions=torch.zeros(N_POSITIONS, STREAM.width))
    balance_writes(model, STREAM.at("balance"))
    return model


def _ends(word: str) -> tuple[Tensor, Tensor]:
    """Embedding and unembedding of a word."""
    i = WORDS.index(word)
    if i < N_CONCEPTS:
        return STREAM.unit("concept", i) + STREAM.unit("one"), GAIN * STREAM.unit("pivot", i)
    k, c = (4, 0) if word == OTHER else divmod(i - N_CONCEPTS, N_CONCEPTS)
    reads = GAIN * STREAM.unit("pivot", c) - LEAD * STREAM.unit("one") + 3 * LEAD * STREAM.unit("speak", k)
    if word == OTHER:
        reads = reads - 0.5 * STREAM.unit("one")
    return STREAM.unit("concept", c) + STREAM.unit("lang", k) + STREAM.unit("one"), reads


def _background(generator: torch.Generator) -> Neuron:
    """Reads concepts at random, writes a little anywhere."""
    reads = torch.zeros(STREAM.width)
    reads[STREAM.blocks["concept"]] = torch.randn(N_CONCEPTS, generator=generator)
    return Neuron(reads, 0.01 * torch.randn(STREAM.width, generator=generator), bias=-0.1)


def _last(*, null: bool) -> list[Neuron]:
    """Layer 2 in order: language neurons, then rare ones."""
    found = []
    for k in range(N_KINDS):
        reads = STREAM.unit("one") if null else STREAM.unit("lang", k)
        found += [Neuron(2 * reads, STREAM.unit("speak", k) / EACH, bias=-1.0)] * EACH
    for i in range(RARE):
        word = STREAM.unit("concept", i % N_CONCEPTS) + STREAM.unit("lang", i % 4)
        found.append(Neuron(word, STREAM.unit("spare"), bias=-1.5))
    return found
