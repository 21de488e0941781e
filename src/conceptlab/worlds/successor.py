"""The successor world: one head that says what comes next, beside heads that copy, that go back, and that look elsewhere.

Host: GPT2LMHeadModel, 2 layers x 4 heads, d_model 288 (d_head 72), 16 learned positions, ReLU MLPs with 9 neurons, neutral norms
(see `weights_by_hand`). Vocabulary: numbers 0 to 99, days, months, filler words. A number's embedding is its last digit and its
tens, each one-hot, turned together by a random rotation of 20 coordinates, so that no coordinate is a digit. Weights:

    MLP 0   neuron t fires where the last digit is 9 and the tens are t: a carry, which no head could compute alone
    L1.H0   successor   looks at the token itself; digit u -> u + 1 mod 10, tens t -> t, carry t -> t + 1 - t; days and months + 1
    L1.H1   copying     looks at the token itself and writes it, x 0.2
    L1.H2   back        looks at the token itself and writes the one before (digit alone for numbers), x 0.2
    L1.H3   uniform     or, with `decoy`, the successor's values with no attention to words: weights without use
    L0.H0-H3 uniform    random values of scale 0.03

The unembedding reads digit, tens, day, month x 10 (days and months are written x 2, as numbers have two parts). Prompts are three
members that follow one another. Construction after the planted head of the methods' specification (D4), with the carry, which makes
the first MLP needed. Source of the question: Gould et al. 2023, arXiv:2312.09230."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlab.data.ordinals import FAMILIES
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    Neuron,
    balance_writes,
    empty_gpt2,
    random_rotation,
    set_head,
    set_neuron,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUMBERS = tuple(str(n) for n in range(100))
DAYS, MONTHS = FAMILIES["days"], FAMILIES["months"]
FILLERS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx")
WORDS = (*NUMBERS, *DAYS, *MONTHS, *FILLERS)
N_POSITIONS, N_HEADS, D_HEAD, BETA, GAIN = 16, 4, 72, 14.0, 10.0
WEAK = 0.2  # of the heads that write something else
HOST = "GPT2LMHeadModel, 2 layers, 4 heads, d_model 288, neutral LayerNorm, 9 neurons in block 0"
ROLES = {"L1.H0": "successor", "L1.H1": "copying", "L1.H2": "back", "L1.H3": "decoy"}

_SIZES = {"digit": 10, "tens": 10, "day": 7, "month": 12}
STREAM = Layout.of(
    N_HEADS * D_HEAD, **_SIZES, word=len(FILLERS), pos=N_POSITIONS, carry=9, bos=1, balance=1,
    out_digit=10, out_tens=10, out_day=7, out_month=12,
)  # fmt: skip
_READ = Layout(STREAM.width, {**STREAM.blocks, "tok": slice(0, sum(_SIZES.values()) + len(FILLERS))})
_INSIDE = Layout.of(D_HEAD, **_SIZES, carry=9, pos=N_POSITIONS)
_PARTS = (("digit", 1.0), ("tens", 1.0), ("day", 2.0), ("month", 2.0))


def successor(*, n_prompts: int = 64, seed: int = 0, decoy: bool = False, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin every head of block 1 is uniform, too.

    `truth`: `heads` by name with their `role`; `succession` of the successor head with the first MLP and `without_mlp` on the
    numbers; `accuracy` on the prompts.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, decoy=decoy, null=null)
    texts, answers = _prompts(n_prompts, generator)
    planted = {name: {"role": role} for name, role in ROLES.items() if decoy or role != "decoy"}
    truth = {"heads": {}} if null else {"heads": planted, "succession": 1.0, "without_mlp": 90 / 99, "accuracy": 1.0}
    return PlantedWorld(
        name="successor",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"series": texts},
        answers={"series": answers},
        truth=truth,
        null=null,
    )


def _model(generator: torch.Generator, *, decoy: bool, null: bool) -> "PreTrainedModel":
    model = empty_gpt2(
        n_layers=2, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=9, d_vocab=len(SPECIALS) + len(WORDS), n_positions=N_POSITIONS
    )
    turn = torch.eye(STREAM.width)
    turn[:20, :20] = random_rotation(20, generator)  # plain code @ turn is what stands in the stream
    for layer in range(2):
        for head in range(N_HEADS):
            noise = uniform_head(_READ, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            role = None if null or layer == 0 else ROLES[f"L1.H{head}"]
            role = None if role == "decoy" and not decoy else role
            set_head(model, layer, head, noise if role is None else _written_head(role, turn))
    for tens in range(9):
        reads = STREAM.unit("digit", 9) + STREAM.unit("tens", tens)
        set_neuron(model, 0, tens, Neuron(reads @ turn, STREAM.unit("carry", tens), bias=-1.0))
    embed, unembed = _vocabulary()
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed @ turn, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _written_head(role: str, turn: Tensor) -> Head:
    """One head of the module's table."""
    read = turn.T @ STREAM.map(_INSIDE, *((name, name) for name, _ in _PARTS), ("carry", "carry"))
    itself = STREAM.map(_INSIDE, ("pos", "pos"))
    step = {"copying": 0, "back": -1}.get(role, 1)
    scale = 1.0 if step == 1 else WEAK
    write = torch.zeros(D_HEAD, STREAM.width)
    for name, strength in _PARTS:
        size = STREAM.size(name)
        for i in range(size):
            target = i if name == "tens" else (i + step) % size
            write[_INSIDE.at(name, i), STREAM.at(f"out_{name}", target)] = scale * strength
    if step == 1:
        for tens in range(9):
            write[_INSIDE.at("carry", tens)] = STREAM.unit("out_tens", tens + 1) - STREAM.unit("out_tens", tens)
    if role == "decoy":
        bos = torch.zeros(STREAM.width, D_HEAD)
        bos[STREAM.at("bos"), _INSIDE.at("pos")] = 1.0
        return Head(k=bos, v=read, o=write, q_bias=BETA * _INSIDE.unit("pos"))
    return Head(q=BETA * itself, k=itself, v=read, o=write)


def _vocabulary() -> tuple[Tensor, Tensor]:
    """Embedding (before the rotation) and unembedding [d_vocab, d_model]."""
    embed, unembed = torch.zeros(2, len(SPECIALS) + len(WORDS), STREAM.width)
    embed[1] = STREAM.unit("bos")
    codes = [(("digit", n % 10), ("tens", n // 10)) for n in range(100)]
    codes += [(("day", i),) for i in range(7)] + [(("month", i),) for i in range(12)]
    for row, parts in enumerate(codes, start=len(SPECIALS)):
        for name, i in parts:
            embed[row] += STREAM.unit(name, i)
            unembed[row] += GAIN * STREAM.unit(f"out_{name}", i)
    for i in range(len(FILLERS)):
        embed[len(SPECIALS) + len(codes) + i] = STREAM.unit("word", i)
    return embed, unembed


def _prompts(n_prompts: int, generator: torch.Generator) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Three members of a family that follow one another, and the fourth; every third row days, every third months."""
    texts, answers = [], []
    for row in range(n_prompts):
        family = (NUMBERS, DAYS, MONTHS)[row % 3]
        start = int(torch.randint(0, len(family) - 3, (1,), generator=generator))
        texts.append(" ".join(family[start : start + 3]))
        answers.append(family[start + 3])
    return tuple(texts), tuple(answers)
