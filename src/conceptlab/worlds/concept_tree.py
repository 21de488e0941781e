"""Concepts in a tree, each with neurons of its own, of its category and of its root; nothing of the tree is in the embeddings.

Host: GPT2LMHeadModel, 2 layers (silent heads), ReLU MLPs of `D_MLP`, neutral norms (see `weights_by_hand`). 24 concepts in six
categories under two roots, three made-up words each; a text is fillers with one word of its concept in it, a negative text
fillers alone. `OWN` neurons read the concept's words, `CATEGORY` those of its category, `ROOT` those of its root; the others
read words at random. What neurons write is small and random. The null twin has random neurons alone. Construction after C5 of
the methods' specification.
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

N_ROOTS, PER_ROOT, PER_CATEGORY, N_WORDS, N_FILLERS = 2, 3, 4, 3, 12
N_CONCEPTS = N_ROOTS * PER_ROOT * PER_CATEGORY
OWN, CATEGORY, ROOT, D_MLP, N_POSITIONS = 4, 6, 8, 160, 12
CONCEPTS = tuple(f"concept{i}" for i in range(N_CONCEPTS))
FILLERS = tuple(f"filler{i}" for i in range(N_FILLERS))
WORDS = (*(f"{name}-{j}" for name in CONCEPTS for j in range(N_WORDS)), *FILLERS)
STREAM = Layout.of(96, tok=len(WORDS), balance=1)


def concept_tree(*, seed: int = 0, null: bool = False, n_texts: int = 20) -> PlantedWorld:
    """Build the world. `prompts`: texts of every concept, and `negative`. `truth`: `experts` (neurons by concept), `similarity`
    [concept, concept] (2: one category, 1: one root, 0: neither)."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    category = np.arange(N_CONCEPTS) // PER_CATEGORY
    root = category // PER_ROOT
    places = torch.randperm(2 * D_MLP, generator=generator).tolist()
    groups = [(OWN, [c]) for c in range(N_CONCEPTS)]
    groups += [(CATEGORY, np.flatnonzero(category == k).tolist()) for k in range(N_ROOTS * PER_ROOT)]
    groups += [(ROOT, np.flatnonzero(root == r).tolist()) for r in range(N_ROOTS)]
    experts: dict[str, list[str]] = {name: [] for name in CONCEPTS}
    planted: list[tuple[int, int, list[int]]] = []
    for size, members in groups:
        for _ in range(size):
            layer, index = divmod(places[len(planted)], D_MLP)
            planted.append((layer, index, members))
            for c in members:
                experts[CONCEPTS[c]].append(f"L{layer}.N{index}")
    prompts = {name: tuple(_text(rng, c) for _ in range(n_texts)) for c, name in enumerate(CONCEPTS)}
    prompts["negative"] = tuple(_text(rng, None) for _ in range(4 * n_texts))
    alike = (category[:, None] == category[None]).astype(int) + (root[:, None] == root[None])
    return PlantedWorld(
        "concept_tree", f"GPT2LMHeadModel, 2 layers, d_model {STREAM.width}, ReLU MLPs of {D_MLP}",
        _model(generator, [] if null else planted), word_tokenizer(WORDS, N_POSITIONS), prompts,
        truth={"experts": {} if null else experts, "similarity": alike.tolist()}, null=null,
    )  # fmt: skip


def _text(rng: np.random.Generator, concept: int | None) -> str:
    words = rng.choice(FILLERS, 7).tolist()
    if concept is not None:
        words[int(rng.integers(0, 7))] = WORDS[concept * N_WORDS + int(rng.integers(0, N_WORDS))]
    return " ".join(words)


def _model(generator: torch.Generator, planted: list[tuple[int, int, list[int]]]) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(n_layers=2, n_heads=2, d_head=48, d_mlp=D_MLP, d_vocab=d_vocab, n_positions=N_POSITIONS)
    for layer in range(2):
        for neuron in range(D_MLP):
            set_neuron(model, layer, neuron, Neuron(_at_random(generator), _small(generator), bias=-0.1))
    for layer, index, members in planted:
        reads = 0.3 * _at_random(generator)
        for c in members:
            reads[STREAM.at("tok", c * N_WORDS) : STREAM.at("tok", c * N_WORDS) + N_WORDS] = 1.5
        set_neuron(model, layer, index, Neuron(reads, _small(generator), bias=-0.1))
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = unembed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    set_vocabulary(model, embed=embed, unembed=unembed, positions=torch.zeros(N_POSITIONS, STREAM.width))
    balance_writes(model, STREAM.at("balance"))
    return model


def _at_random(generator: torch.Generator) -> Tensor:
    reads = torch.zeros(STREAM.width)
    reads[STREAM.blocks["tok"]] = torch.rand(len(WORDS), generator=generator)
    reads[: N_CONCEPTS * N_WORDS] *= 0.5  # below what fillers give, or a neuron at random would detect a concept
    return reads


def _small(generator: torch.Generator) -> Tensor:
    return 0.003 * torch.randn(STREAM.width, generator=generator)
