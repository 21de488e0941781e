"""The analogy world: `a is to b as c is to` d; relations are read, moved and applied, and some failures are planted.

Host: GPT2LMHeadModel, 4 layers × 4 heads, d_model 128 (d_head 32), 12 learned positions, ReLU MLPs, neutral norms (see
`weights_by_hand`). Stream blocks: tok (19 words), pos, src (8), rel (4), moved (4), arg (8), out (8), bos, balance. Four
relations send 8 sources to the same 8 targets, each in another order, so that only a and b together say which relation is meant.
Weights:

    L0.H0   looks three back, copies a source into src: at b it is a
    L0.H1   looks two back, copies a source into arg: at the last word (the link) it is c
    L0.mlp  relation reader: one neuron a pair (a, b) writes the relation into rel, at b
    L2.H0   relation mover: `to` looks for any rel, `<bos>` a sink; copies it into moved
    L2.H1   surface copy: `to` looks for targets; writes 2 logits on the b that it reads, which is what a failing prompt answers
    L3.mlp  answer writer: one neuron a (relation, c) writes 10 logits on d, and takes the relation out of moved again
    the other heads  uniform attention, random values of scale 0.03

At last the stream is turned by a random rotation, so that no coordinate is special (see `_rotate`).

Failures of two kinds are planted. For 3 of 8 pairs of every relation there is no reader, so that the prompt lacks its relational
state and gets right when that state comes from elsewhere; for one c of two relations there is no writer, which no patch repairs.
Construction of our own for R7 of the methods' specification (system: The Curious Case of Analogies).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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

SOURCES = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple")
TARGETS = ("bark", "cone", "leaf", "moss", "nut", "resin", "root", "seed")
RELATIONS = ("bears", "sheds", "stores", "wears")
WORDS = (*SOURCES, *TARGETS, "is", "to", "as")
N_POSITIONS = 12
D_HEAD = 32
N_HEADS = 4
BETA = 14.0
GAIN = 10.0  # of the unembedding
POSITIONS = {"a": 1, "b": 4, "c": 6, "link": 8}
HOST = "GPT2LMHeadModel, 4 layers, 4 heads, d_model 128, neutral LayerNorm"

STREAM = Layout.of(
    N_HEADS * D_HEAD,
    tok=len(WORDS),
    pos=N_POSITIONS,
    src=len(SOURCES),
    rel=len(RELATIONS),
    moved=len(RELATIONS),
    arg=len(SOURCES),
    out=len(TARGETS),
    bos=1,
    balance=1,
)
_NAMED = Layout(
    STREAM.width,
    {**STREAM.blocks, "source": slice(0, 8), "target": slice(8, 16), "to": slice(len(WORDS) - 2, len(WORDS) - 1)},
)
_LOOK = Layout.of(D_HEAD, word=8, flag=1)
ROLES = {"L0.H0": "source_mover", "L0.H1": "argument_mover", "L2.H0": "relation_mover", "L2.H1": "surface_copy"}


@dataclass(frozen=True)
class _Relations:
    """`target` [relation][source]; pairs without a reader and (relation, c) without a writer."""

    target: list[list[int]]
    unread: set[tuple[int, int]]
    unknown: set[tuple[int, int]]


def analogy(*, n_prompts: int = 192, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin has sixteen uniform heads with random values and no neurons.

    `prompts`: `analogies`; its answers are d. `truth`: `relations` [row] (names), `fails` [row] ("" right, "relation" lacks its
    relational state alone, "fact" lacks the writer of its answer); `positions` of a, b, c and the link; `heads` by name with
    `role`. `relation_layer`, `moved_layer` and `answer_layer` are the blocks after which the relation stands at b, the relation
    stands at the link, and the answer is written; `repairing_layers` those at whose input the state of b repairs. `accuracy`;
    `repairable` (share of failures that lack the relational state alone). All of it is derived, not measured.
    """
    generator = torch.Generator().manual_seed(seed)
    relations = _relations(generator)
    model = _model(generator, relations, null=null)
    rows = _rows(n_prompts, generator)
    texts = tuple(f"{SOURCES[a]} is to {TARGETS[relations.target[r][a]]} as {SOURCES[c]} is to" for r, a, c in rows)
    return PlantedWorld(
        name="analogy",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"analogies": texts},
        answers={"analogies": tuple(TARGETS[relations.target[r][c]] for r, _, c in rows)},
        truth={"heads": {}, **_labels(rows)} if null else _truth(rows, relations),
        null=null,
    )


def _relations(generator: torch.Generator) -> _Relations:
    order = torch.randperm(len(TARGETS), generator=generator).tolist()
    shifts = torch.randperm(len(TARGETS), generator=generator)[: len(RELATIONS)].tolist()
    target = [[order[(source + shift) % len(TARGETS)] for source in range(len(SOURCES))] for shift in shifts]
    unread, unknown = set(), set()
    for relation in range(len(RELATIONS)):
        picked = torch.randperm(len(SOURCES), generator=generator).tolist()
        unread |= {(relation, source) for source in picked[:3]}
        if relation < 2:
            unknown.add((relation, picked[3]))
    return _Relations(target, unread, unknown)


def _rows(n: int, generator: torch.Generator) -> list[tuple[int, int, int]]:
    """Relation, a and c of every row: relations as often as each other, c never a."""
    rows = []
    for i in range(n):
        a, c = torch.randperm(len(SOURCES), generator=generator)[:2].tolist()
        rows.append((i % len(RELATIONS), a, c))
    return rows


def _labels(rows: list[tuple[int, int, int]]) -> dict[str, Any]:
    return {"relations": [RELATIONS[r] for r, _, _ in rows], "positions": POSITIONS}


def _truth(rows: list[tuple[int, int, int]], relations: _Relations) -> dict[str, Any]:
    fails = [
        "fact" if (r, c) in relations.unknown else "relation" if (r, a) in relations.unread else "" for r, a, c in rows
    ]
    failing = [kind for kind in fails if kind]
    return {
        **_labels(rows),
        "heads": {name: {"role": role} for name, role in ROLES.items()},
        "fails": fails,
        "relation_layer": 0,
        "moved_layer": 2,
        "answer_layer": 3,
        "repairing_layers": [1, 2],
        "accuracy": 1 - len(failing) / len(fails),
        "repairable": failing.count("relation") / len(failing) if failing else 0.0,
    }


def _model(generator: torch.Generator, relations: _Relations, *, null: bool) -> "PreTrainedModel":
    d_vocab, n_pairs = len(SPECIALS) + len(WORDS), len(RELATIONS) * len(SOURCES)
    model = empty_gpt2(
        n_layers=4, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=n_pairs, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(4):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            role = None if null else ROLES.get(f"L{layer}.H{head}")
            set_head(model, layer, head, noise if role is None else _written_head(role))
    if not null:
        _write_neurons(model, relations)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    for i in range(len(TARGETS)):
        unembed[len(SPECIALS) + len(SOURCES) + i] = GAIN * STREAM.unit("out", i)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    _rotate(model, generator)
    return model


@torch.no_grad()
def _rotate(model: "PreTrainedModel", generator: torch.Generator) -> None:
    """Turn the stream x into x @ R, so that no coordinate is special: not one that holds a relation, not one of mere noise.

    R leaves the vector of ones alone, so that a mean of 0 stays 0 and LayerNorm (with one gain) commutes with it.
    """
    width = STREAM.width
    mirror = torch.full((width,), width**-0.5, dtype=torch.float64)
    mirror[0] -= 1.0  # the reflection along it exchanges the ones with the first axis
    mirror /= mirror.norm()
    inner = torch.block_diag(torch.ones(1, 1, dtype=torch.float64), random_rotation(width - 1, generator).double())
    reflect = torch.eye(width, dtype=torch.float64) - 2 * torch.outer(mirror, mirror)
    rotation = (reflect @ inner @ reflect).float()
    for name, weight in model.named_parameters():
        if name.endswith(("wte.weight", "wpe.weight", "lm_head.weight", "c_proj.weight")):
            weight.copy_(weight @ rotation)
        elif name.endswith(("c_attn.weight", "c_fc.weight")):
            weight.copy_(rotation.T @ weight)


def _write_neurons(model: "PreTrainedModel", relations: _Relations) -> None:
    for r, targets in enumerate(relations.target):
        for source, target in enumerate(targets):
            index = r * len(SOURCES) + source
            if (r, source) not in relations.unread:
                pair = STREAM.unit("src", source) + STREAM.unit("tok", len(SOURCES) + target)
                set_neuron(model, 0, index, Neuron(w_in=pair, w_out=STREAM.unit("rel", r), bias=-1.0))
            if (r, source) not in relations.unknown:
                known = STREAM.unit("moved", r) + STREAM.unit("arg", source)
                writes = STREAM.unit("out", target) - STREAM.unit("moved", r)
                set_neuron(model, 3, index, Neuron(w_in=known, w_out=writes, bias=-1.0))


def _written_head(role: str) -> Head:
    if role in ("source_mover", "argument_mover"):
        back, block = (3, "src") if role == "source_mover" else (2, "arg")
        at = Layout(D_HEAD, {"pos": slice(0, N_POSITIONS), "later": slice(back, N_POSITIONS + back)})
        return Head(
            q=_NAMED.map(at, ("pos", "pos", BETA)),
            k=_NAMED.map(at, ("pos", "later")),
            v=_NAMED.map(_LOOK, ("source", "word")),
            o=_LOOK.map(_NAMED, ("word", block)),
        )
    read, write, strength = ("rel", "moved", 1.0) if role == "relation_mover" else ("target", "out", 0.2)
    return Head(
        q=_NAMED.map(_LOOK, ("to", "flag")),
        k=BETA * (_any(read) + 0.5 * _any("bos")),
        v=_NAMED.map(_LOOK, (read, "word")),
        o=_LOOK.map(_NAMED, ("word", write, strength)),
    )


def _any(block: str) -> Tensor:
    indicator = torch.zeros(STREAM.width)
    indicator[_NAMED.blocks[block]] = 1.0
    return torch.outer(indicator, _LOOK.unit("flag"))
