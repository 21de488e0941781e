"""The world of stories: what matters about a token is its role, and analogous stories share roles, not words.

Host: GPT2LMHeadModel, 2 layers × 4 heads, d_model 128 (d_head 32), 16 learned positions, ReLU MLPs, neutral norms (see
`weights_by_hand`). Stream blocks: tok (51 words), pos, role (10), here (10), bos and balance. A story is five clauses `verb thing`;
ten roles have three verbs each. Weights:

    L0.mlp  one neuron a role reads any of its verbs, writes 2 × role
    L1.H0   every position looks one back; copies role into here, so that a thing knows what is done to it
    the other heads  uniform attention, random values of scale 0.03

The unembedding reads role × 10 on the verbs. A `target` has the roles of its `source` in another order, with other verbs and other
things; a `distractor` has the things of its source in their places, and other roles. Construction of our own for R7 of the methods'
specification (system: The Curious Case of Analogies).
"""

from typing import TYPE_CHECKING

import torch

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    Neuron,
    balance_writes,
    empty_gpt2,
    set_head,
    set_neuron,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERBS = (
    ("gives", "hands", "lends"),
    ("takes", "grabs", "steals"),
    ("builds", "makes", "raises"),
    ("breaks", "smashes", "ruins"),
    ("loves", "adores", "likes"),
    ("fears", "dreads", "shuns"),
    ("seeks", "hunts", "chases"),
    ("hides", "buries", "covers"),
    ("heals", "mends", "cures"),
    ("sells", "trades", "vends"),
)
THINGS = (
    *("apple", "boat", "coin", "drum", "egg", "flute", "gate", "hat", "inn", "jar"),
    *("kite", "lamp", "mill", "net", "oar", "pot", "quill", "rope", "sled", "tent"),
)
WORDS = (*(verb for verbs in VERBS for verb in verbs), *THINGS)
N_CLAUSES, N_POSITIONS, D_HEAD, N_HEADS = 5, 16, 32, 4
BETA = 14.0
HOST = "GPT2LMHeadModel, 2 layers, 4 heads, d_model 128, neutral LayerNorm"
STREAM = Layout.of(N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, role=10, here=10, bos=1, balance=1)
_POSITION = Layout(D_HEAD, {"pos": slice(0, N_POSITIONS), "next": slice(1, N_POSITIONS + 1)})
_LOOK = Layout.of(D_HEAD, role=10)


def story_roles(*, n_stories: int = 48, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin has eight uniform heads with random values and no neurons.

    `prompts`: `source`, `target`, `distractor`. `truth`: `heads` by name with `role`; `role_layer` (after this block verbs of one
    role are alike), `aligned_layer` (after this one things of one role are, too). Derived, not measured.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, null=null)
    stories = [_stories(generator) for _ in range(n_stories)]
    source, target, distractor = zip(*stories, strict=True)
    truth = {"heads": {"L1.H0": {"role": "role_mover"}}, "role_layer": 0, "aligned_layer": 1}
    return PlantedWorld(
        name="story_roles",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"source": source, "target": target, "distractor": distractor},
        truth={"heads": {}} if null else truth,
        null=null,
    )


def _stories(generator: torch.Generator) -> tuple[str, str, str]:
    roles = torch.randperm(len(VERBS), generator=generator).tolist()
    things = torch.randperm(len(THINGS), generator=generator).tolist()
    form = torch.randint(0, 3, (N_CLAUSES,), generator=generator).tolist()
    order = torch.randperm(N_CLAUSES, generator=generator).tolist()
    own, others = roles[:N_CLAUSES], roles[N_CLAUSES:]
    source = [(own[i], form[i], things[i]) for i in range(N_CLAUSES)]
    target = [(own[i], (form[i] + 1) % 3, things[N_CLAUSES + i]) for i in order]
    distractor = [(others[i], form[i], things[i]) for i in range(N_CLAUSES)]
    return _text(source), _text(target), _text(distractor)


def _text(clauses: list[tuple[int, int, int]]) -> str:
    return " ".join(f"{VERBS[role][form]} {THINGS[thing]}" for role, form, thing in clauses)


def _model(generator: torch.Generator, *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=2, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=len(VERBS), d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(2):
        for head in range(N_HEADS):
            set_head(model, layer, head, uniform_head(STREAM, D_HEAD, generator))
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
        if i < 3 * len(VERBS):
            unembed[len(SPECIALS) + i] = 10 * STREAM.unit("role", i // 3)
    if not null:
        for role in range(len(VERBS)):
            reads = sum((STREAM.unit("tok", 3 * role + form) for form in range(3)), torch.zeros(STREAM.width))
            set_neuron(model, 0, role, Neuron(w_in=reads, w_out=2 * STREAM.unit("role", role)))
        set_head(model, 1, 0, _mover())
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _mover() -> Head:
    return Head(
        q=STREAM.map(_POSITION, ("pos", "pos", BETA)),
        k=STREAM.map(_POSITION, ("pos", "next")),
        v=STREAM.map(_LOOK, ("role", "role")),
        o=_LOOK.map(STREAM, ("role", "here")),
    )
