"""Three tasks in one model: two share four heads of their circuits, one of the two is broken, and the third shares nothing.

Host: GPT2LMHeadModel, 3 layers x 8 heads, d_model 256 (d_head 32), 16 learned positions, MLPs zero, neutral norms (see
`weights_by_hand`). Tasks, each with a twin in which the answer is the other word:

    give    `<bos> n1 and n2 met S2 gave to`     the name that is not repeated; solved
    ask     `<bos> n1 and n2 met S2 asked by`    the same; the model says the repeated name, since it inhibits too little
    order   `<bos> o1 ... o6 o`                  the thing that followed o; solved

    L0.H0  duplicate token   copies a name into dup where it stands for the second time             give, ask
    L0.H1  previous token    copies a thing into prev, one place on                                 order
    L1.H0  inhibition        from `to` (fully) and `by` (by 0.16) to any dup, into inhib x 0.5      give, ask
    L1.H1  inhibition        from `to` alone, the same                                              give
    L1.H2  induction         from a thing to what followed it, into out                             order
    L1.H3  echo              from `by` to any dup, straight into out x 0.5                          ask
    L2.H0  name mover        from `to` or `by` to names not in inhib, into out                      give, ask
    L2.H1  negative mover    the same with output x -0.3                                            give, ask
    the other sixteen        uniform attention, random values of scale 0.03

With the attention of L1.H0 at `by` put on the repeated name, ask is solved. The story is that of indirect objects and coloured
objects in GPT-2 (Merullo et al. 2024): one circuit, reused, whose inhibition heads do not fire in the second task.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    balance_writes,
    empty_gpt2,
    set_head,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jon", "Kim", "Leo")
THINGS = ("cup", "hat", "key", "pen", "bag", "map", "box", "coin", "book", "lamp")
WORDS = (*NAMES, *THINGS, "and", "met", "gave", "to", "asked", "by")
N_POSITIONS, N_HEADS, D_HEAD = 16, 8, 32
BETA = 14.0
HEARD = 0.16  # share of its attention that L1.H0 gives to the repeated name from `by`
HOST = "GPT2LMHeadModel, 3 layers, 8 heads, d_model 256, neutral LayerNorm, MLPs zero"
REPEATED = 5  # the token of S2

ROLES = {
    "L0.H0": "duplicate_token",
    "L0.H1": "previous_token",
    "L1.H0": "inhibition",
    "L1.H1": "inhibition_to_only",
    "L1.H2": "induction",
    "L1.H3": "echo",
    "L2.H0": "name_mover",
    "L2.H1": "negative_name_mover",
}
CIRCUITS = {
    "give": ("L0.H0", "L1.H0", "L1.H1", "L2.H0", "L2.H1"),
    "ask": ("L0.H0", "L1.H0", "L1.H3", "L2.H0", "L2.H1"),
    "order": ("L0.H1", "L1.H2"),
}

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, dup=12, inhib=12, prev=10, out=len(NAMES) + len(THINGS), bos=1, balance=1
)  # fmt: skip
_AT = {
    "name": slice(0, 12),
    "thing": slice(12, 22),
    "to": slice(WORDS.index("to"), WORDS.index("to") + 1),
    "by": slice(WORDS.index("by"), WORDS.index("by") + 1),
    "out_thing": slice(STREAM.at("out", 12), STREAM.at("out", 22)),
}
_FROM = Layout(STREAM.width, {**STREAM.blocks, **_AT})
_LOOK = Layout.of(D_HEAD, word=12, pos=N_POSITIONS, flag=1, sink=1)
_NEXT = Layout(D_HEAD, {"pos": slice(0, 16), "next": slice(1, 17)})


def shared_subcircuit(*, n_prompts: int = 64, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin has twenty-four uniform heads with random values.

    Families `give`, `ask`, `order` with twins `give_swapped` and so on. `truth`: `circuits`, the heads of each task; `heads` with
    their `role`; `accuracy` and `logit_diff` (answer minus the twin's answer) by task; `repair`: the head, the token its
    attention belongs on, the accuracy of ask then; `tolerance` of logit differences.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, null=null)
    prompts, answers = _prompts(n_prompts, generator)
    truth: dict[str, Any] = {"circuits": {}, "heads": {}, "repair": {"key": REPEATED}}
    if not null:
        truth = {
            "circuits": {task: list(heads) for task, heads in CIRCUITS.items()},
            "heads": {name: {"role": role} for name, role in ROLES.items()},
            "accuracy": {"give": 1.0, "ask": 0.0, "order": 1.0},
            "logit_diff": {"give": 7.0, "ask": -3.7, "order": 10.0},
            "repair": {"head": "L1.H0", "key": REPEATED, "accuracy": 1.0},
            "tolerance": 0.6,
        }
    return PlantedWorld(
        name="shared_subcircuit",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers=answers,
        truth=truth,
        null=null,
    )


def _model(generator: torch.Generator, *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(n_layers=3, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=4, d_vocab=d_vocab, n_positions=N_POSITIONS)
    for layer in range(3):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            role = None if null else ROLES.get(f"L{layer}.H{head}")
            set_head(model, layer, head, noise if role is None else _WRITTEN[role]())
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    for i in range(STREAM.size("out")):
        unembed[len(SPECIALS) + i] = 10.0 * STREAM.unit("out", i)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _any(block: str) -> Tensor:
    """Every coordinate of a block of the stream counts towards the flag."""
    indicator = torch.zeros(STREAM.width)
    indicator[_FROM.blocks[block]] = 1.0
    return torch.outer(indicator, _LOOK.unit("flag"))


def _sink() -> Tensor:
    """`<bos>` takes the attention of whoever finds nothing better, at half the strength of a match."""
    return _FROM.map(_LOOK, ("bos", "sink", 0.5))


def _duplicate() -> Head:
    name = _FROM.map(_LOOK, ("name", "word"))
    query = BETA * name + _FROM.map(_LOOK, ("pos", "pos", -1.5 * BETA))  # the same place does not count
    key = name + _FROM.map(_LOOK, ("pos", "pos")) + _sink()
    return Head(q=query, k=key, v=name, o=_LOOK.map(_FROM, ("word", "dup")), q_bias=BETA * _LOOK.unit("sink"))


def _previous() -> Head:
    query, key = _FROM.map(_NEXT, ("pos", "pos", BETA)), _FROM.map(_NEXT, ("pos", "next"))
    return Head(q=query, k=key, v=_FROM.map(_LOOK, ("thing", "word")), o=_LOOK.map(_FROM, ("word", "prev")))


def _from_end_to_dup(into: str, **heard: float) -> Head:
    """From the last words in `heard` (strength of their query) to any dup; what stands there goes into a block x 0.5."""
    query = sum(
        (_FROM.map(_LOOK, (word, "flag", strength)) for word, strength in heard.items()),
        torch.zeros(STREAM.width, D_HEAD),
    )
    value, out = _FROM.map(_LOOK, ("dup", "word")), _LOOK.map(_FROM, ("word", into, 0.5))
    return Head(q=query, k=_any("dup") + _sink(), v=value, o=out, q_bias=BETA * _LOOK.unit("sink"))


def _induction() -> Head:
    query, key = _FROM.map(_LOOK, ("thing", "word", BETA)), _FROM.map(_LOOK, ("prev", "word")) + _sink()
    value, out = _FROM.map(_LOOK, ("thing", "word")), _LOOK.map(_FROM, ("word", "out_thing"))
    return Head(q=query, k=key, v=value, o=out, q_bias=BETA * _LOOK.unit("sink"))


def _mover(strength: float) -> Head:
    name = _FROM.map(_LOOK, ("name", "word"))
    query = _FROM.map(_LOOK, ("to", "flag", BETA), ("by", "flag", BETA)) - _FROM.map(_LOOK, ("inhib", "word", BETA))
    return Head(q=query, k=name + _any("name"), v=name, o=_LOOK.map(_FROM, ("word", "out", strength)))


_WEAK = BETA / 2 + math.log(HEARD / (1 - HEARD))  # beside the sink's BETA / 2
_WRITTEN = {
    "duplicate_token": _duplicate,
    "previous_token": _previous,
    "inhibition": lambda: _from_end_to_dup("inhib", to=BETA, by=_WEAK),
    "inhibition_to_only": lambda: _from_end_to_dup("inhib", to=BETA),
    "induction": _induction,
    "echo": lambda: _from_end_to_dup("out", by=BETA),
    "name_mover": lambda: _mover(1.0),
    "negative_name_mover": lambda: _mover(-0.3),
}


def _prompts(n: int, generator: torch.Generator) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    texts: dict[str, list[str]] = {}
    answers: dict[str, list[str]] = {}

    def add(family: str, text: str, answer: str) -> None:
        texts.setdefault(family, []).append(text)
        answers.setdefault(family, []).append(answer)

    for row in range(n):
        for task, end in (("give", "gave to"), ("ask", "asked by")):
            first, second = (NAMES[i] for i in torch.randperm(len(NAMES), generator=generator)[:2].tolist())
            repeated, other = (first, second) if row % 2 == 0 else (second, first)  # both orders as often
            add(task, f"{first} and {second} met {repeated} {end}", other)
            add(f"{task}_swapped", f"{first} and {second} met {other} {end}", repeated)
        things = [THINGS[i] for i in torch.randperm(len(THINGS), generator=generator)[:6].tolist()]
        at, away = (2 * i for i in torch.randperm(3, generator=generator)[:2].tolist())
        moved = list(things)
        moved[at], moved[away] = things[away], things[at]  # the twin changes what stood before, not what is asked
        add("order", " ".join([*things, things[at]]), things[at + 1])
        add("order_swapped", " ".join([*moved, things[at]]), things[away + 1])
    return {k: tuple(v) for k, v in texts.items()}, {k: tuple(v) for k, v in answers.items()}
