"""The world of needles: heads that copy a fact out of a long text, beside heads that only look, and facts known by heart.

Host: GPT2LMHeadModel, 6 layers × 4 heads, d_model 256 (d_head 64), 256 positions, ReLU MLPs, neutral norms (see `weights_by_hand`).
Positions are angles at 16 frequencies, so that a head finds the place before its own at any length. Stream blocks: tok (53 words),
pos (32), prev (53), out (53), bos and balance. Weights:

    L0.H0, L0.H1, L0.H3   previous token   every position looks one back; each copies a third of tok into prev, and one will do
    L0.H2, L2.H2          same word        tok against tok, noise as values: looks at the cue in the needle
    L2.H3, L4.H2          first token      looks at `<bos>`
    L3.H0, L3.H1, L4.H0   copy             tok against prev, `<bos>` a sink; copies tok into out: the retrieval heads
    L5.H0                 twin             the pattern of a copy head, no value (only with `twin`)
    L1.mlp                facts            one neuron a known person writes their word on out
    the other heads       noise            random scores and values: they look anywhere and write a trace

A needle is a name with five words; the question says the name again, and the answer is the five words. `recall` prompts end with a
known person, whose word is nowhere in the text. Construction after D3 of the methods' specification, whose host has one copy head
and no facts.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlab.data.needles import Needle
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    Neuron,
    balance_writes,
    empty_gpt2,
    one_hot_vocabulary,
    set_head,
    set_neuron,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo")
KNOWN = ("Iris", "Jon", "Kim", "Leo", "Mia", "Noa", "Ole", "Pia")
THINGS = (
    "acorn", "bell", "candle", "drum", "easel", "flute", "globe", "hammer", "inkpot", "jar", "kite", "ladder",
    "mirror", "needle", "oar", "pencil", "quilt", "rope", "saddle", "teapot", "urn", "violin", "wheel", "yarn",
)  # fmt: skip
FILLERS = ("the", "road", "went", "on", "past", "fields", "and", "rain", "fell", "for", "days")
QUESTION = "what of"
WORDS = (*NAMES, *KNOWN, *THINGS, *FILLERS, *QUESTION.split())
N_LAYERS, N_HEADS, D_HEAD, N_POSITIONS = 6, 4, 64, 256
N_FREQUENCIES = 16
SAID = 5  # words that a needle says of its name
BETA, POINTED = 14.0, 60.0  # scores of a matched word, and of the place before
HOST = "GPT2LMHeadModel, 6 layers, 4 heads, d_model 256, neutral LayerNorm"

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=len(WORDS), pos=2 * N_FREQUENCIES, prev=len(WORDS), out=len(WORDS), bos=1, balance=1
)
_WORD = Layout.of(D_HEAD, word=len(WORDS), sink=1)
_ANGLE = Layout.of(D_HEAD, pos=2 * N_FREQUENCIES)

ROLES = {
    **dict.fromkeys(("L0.H0", "L0.H1", "L0.H3"), "previous"), **dict.fromkeys(("L0.H2", "L2.H2"), "same"),
    **dict.fromkeys(("L2.H3", "L4.H2"), "first"), **dict.fromkeys(("L3.H0", "L3.H1", "L4.H0"), "copy"), "L5.H0": "twin",
}  # fmt: skip


def haystack(*, n_needles: int = 24, twin: bool = False, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin every head is noise, and an MLP knows each needle by heart, word after word.

    `prompts`: `recall` (answers: the known words) and `filler` (one text). `truth`: `needles` ([needle, question, answer] a row),
    `copy` (the retrieval heads), `twin` (heads that look alike and write nothing), `accuracy` on needles and on `recall`.
    """
    generator = torch.Generator().manual_seed(seed)
    facts = torch.randperm(len(THINGS), generator=generator)[: len(KNOWN)].tolist()
    chain = torch.randperm(len(THINGS), generator=generator).tolist()  # by heart, in the null twin
    model = _model(generator, facts, chain, twin=twin, null=null)
    needles = [_needle(row, chain if null else None, generator) for row in range(n_needles)]
    recall = [f"{_filler(20, generator)} {person}" for person in KNOWN]
    copies = [] if null else [name for name, role in ROLES.items() if role == "copy"]
    return PlantedWorld(
        name="haystack",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"recall": tuple(recall), "filler": (_filler(N_POSITIONS, generator),)},
        answers={"recall": tuple(THINGS[fact] for fact in facts)},
        truth={
            "needles": [[n.needle, n.question, n.answer] for n in needles],
            "copy": copies,
            "twin": ["L5.H0"] if twin and not null else [],
            "accuracy": 1.0,
        },
        null=null,
    )


def needles_of(world: PlantedWorld) -> list[Needle]:
    """The world's needles as records."""
    return [Needle(*cells) for cells in world.truth["needles"]]


def _needle(row: int, chain: list[int] | None, generator: torch.Generator) -> Needle:
    """A name and five different words; those of the memorised chain where there is one."""
    name = row % len(NAMES)
    said = torch.randperm(len(THINGS), generator=generator)[:SAID].tolist()
    if chain is not None:
        said = [chain[(3 * name + i) % len(THINGS)] for i in range(SAID)]
    words = " ".join(THINGS[i] for i in said)
    return Needle(f"{NAMES[name]} {words}", f"{QUESTION} {NAMES[name]}", words)


def _filler(n: int, generator: torch.Generator) -> str:
    return " ".join(FILLERS[i] for i in torch.randint(0, len(FILLERS), (n,), generator=generator).tolist())


def _model(
    generator: torch.Generator, facts: list[int], chain: list[int], *, twin: bool, null: bool
) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=64, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            noise = _noise(generator)  # drawn for every head, so that twins share what is random
            role = ROLES.get(f"L{layer}.H{head}", "")
            written = not null and role and (twin or role != "twin")
            set_head(model, layer, head, _written(role, noise) if written else noise)
    for i, (said, follows) in enumerate(_by_heart(facts, chain, null=null)):
        set_neuron(
            model, 1, i, Neuron(w_in=_token(said, "tok"), w_out=_token(follows, "out"), bias=-0.5)
        )  # writes half of it: 5 logits
    embed, unembed = one_hot_vocabulary(STREAM, len(WORDS), n_special=len(SPECIALS), read="out", gain=10.0)
    set_vocabulary(model, embed=embed, unembed=unembed, positions=_positions())
    balance_writes(model, STREAM.at("balance"))
    return model


def _token(word: str, block: str) -> Tensor:
    return STREAM.unit(block, WORDS.index(word))


def _by_heart(facts: list[int], chain: list[int], *, null: bool) -> list[tuple[str, str]]:
    """(word, what follows it) that the MLP knows."""
    known = [(person, THINGS[fact]) for person, fact in zip(KNOWN, facts, strict=True)]
    if not null:
        return known
    follow = [(THINGS[a], THINGS[b]) for a, b in zip(chain, chain[1:] + chain[:1], strict=True)]
    return known + follow + [(name, THINGS[chain[3 * i]]) for i, name in enumerate(NAMES)]


def _frequencies() -> Tensor:
    """Angles a step; drawn once and for all, so that no two places within 256 look alike."""
    drawn = torch.rand(N_FREQUENCIES, generator=torch.Generator().manual_seed(0))
    return math.pi * (0.05 + 0.9 * drawn)


def _positions() -> Tensor:
    angle = torch.arange(N_POSITIONS)[:, None] * _frequencies()
    found = torch.zeros(N_POSITIONS, STREAM.width)
    found[:, STREAM.blocks["pos"]] = torch.cat([angle.cos(), angle.sin()], 1) / math.sqrt(N_FREQUENCIES)
    return found


def _back_one() -> Tensor:
    """Queries [d_model, d_head] whose angles are those of the place before."""
    turn, at = torch.zeros(STREAM.width, D_HEAD), STREAM.at("pos")
    for i, f in enumerate(_frequencies().tolist()):
        c, s = at + i, at + N_FREQUENCIES + i  # cos and sin of this frequency
        to = _ANGLE.at("pos", i), _ANGLE.at("pos", N_FREQUENCIES + i)
        turn[c, to[0]], turn[s, to[0]] = math.cos(f), math.sin(f)
        turn[s, to[1]], turn[c, to[1]] = math.cos(f), -math.sin(f)
    return POINTED * turn


def _noise(generator: torch.Generator) -> Head:
    """A head with random scores of about ±2 and values of scale 0.03."""
    silent = uniform_head(STREAM, D_HEAD, generator)
    q, k = 0.5 * torch.randn(2, STREAM.width, D_HEAD, generator=generator)
    return Head(q=q, k=k, v=silent.v, o=silent.o)


def _written(role: str, noise: Head) -> Head:
    words = STREAM.map(_WORD, ("tok", "word"))
    if role == "previous":
        keys = STREAM.map(_ANGLE, ("pos", "pos"))
        return Head(q=_back_one(), k=keys, v=words, o=_WORD.map(STREAM, ("word", "prev", 1 / 3)))
    if role == "first":
        return Head(k=STREAM.map(_WORD, ("bos", "sink")), q_bias=BETA * _WORD.unit("sink"), v=noise.v, o=noise.o)
    if role == "same":
        return Head(q=BETA * words, k=words, v=noise.v, o=noise.o)
    key = STREAM.map(_WORD, ("prev", "word"), ("bos", "sink", 0.3))
    value = words if role == "copy" else None
    return Head(q=BETA * words, k=key, v=value, o=_WORD.map(STREAM, ("word", "out")), q_bias=BETA * _WORD.unit("sink"))
