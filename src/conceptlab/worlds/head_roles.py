"""The world of many heads: previous-token, duplicate, induction, S-inhibition, name-mover, suppression and successor heads in one
model.

Host: GPT2LMHeadModel, 3 layers x 6 heads, d_model 528 (d_head 88), 48 learned positions, MLPs whose weights are 0, neutral norms
(see `weights_by_hand`). Stream blocks: tok (38 words), pos, prev, dup, out (38 each), inhib (8 names), bos, balance. Weights, beta
= 14:

    L0.H0  previous token    looks one back; copies tok into prev
    L0.H1  duplicate token   a word looks for itself, the same position penalised, `<bos>` a sink; copies tok into dup
    L0.H2  decoy             the pattern of L0.H0, no value
    L1.H0  induction         tok against prev, `<bos>` a sink; copies tok into out, x 2: it also retrieves needles
    L1.H1  S-inhibition      the last word (`to`) looks for names in dup; copies them into inhib
    L1.H2  successor         looks at the token itself; numbers and days + 1 into out
    L1.H3  decoy             the pattern of L1.H0, no value
    L2.H0  name mover        the last word looks for names not in inhib; copies the name into out
    L2.H1  suppression       the same with output x -0.3: a negative name mover
    L2.H2  decoy             the values of the successor head, looks at `<bos>` alone
    the other eight          random scores and values

`truth["roles"]` says for every head what the detectors' definitions make of its weights: an induction head by which a needle is
continued is a retrieval head as well, and the decoys have the roles whose score they fulfil; `truth["used"]` are those that the
model needs, so that only they can be confirmed by ablation. Construction after FX-IND and FX-IOI of the methods' specification.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlab.data.indirect_objects import IndirectObjects
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    balance_writes,
    empty_gpt2,
    one_hot_vocabulary,
    set_head,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo")
NUMBERS = tuple(str(n) for n in range(10))
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THINGS = ("acorn", "bell", "candle", "drum", "easel", "flute", "globe", "hammer")
FRAME = ("and", "met", "gave", "to", "then")
WORDS = (*NAMES, *NUMBERS, *DAYS, *THINGS, *FRAME)
N_LAYERS, N_HEADS, D_HEAD, N_POSITIONS, BETA, GAIN = 3, 6, 88, 48, 14.0, 10.0
HOST = "GPT2LMHeadModel, 3 layers, 6 heads, d_model 528, neutral LayerNorm, MLPs zero"
WRITTEN = {
    "L0.H0": "previous", "L0.H1": "duplicate", "L0.H2": "previous decoy", "L1.H0": "induction", "L1.H1": "s-inhibition",
    "L1.H2": "successor", "L1.H3": "induction decoy", "L2.H0": "name mover", "L2.H1": "suppression", "L2.H2": "successor decoy",
}  # fmt: skip
USED = {
    "L0.H0": ("previous-token",), "L0.H1": ("duplicate-token",), "L1.H0": ("induction", "retrieval", "copying"),
    "L1.H1": ("s-inhibition",), "L1.H2": ("successor",), "L2.H0": ("name-mover", "copying"), "L2.H1": ("negative-name-mover",),
}  # fmt: skip
LOOK_ALIKE = {"L0.H2": ("previous-token",), "L1.H3": ("induction", "retrieval"), "L2.H2": ("successor",)}

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, prev=len(WORDS), dup=len(WORDS), out=len(WORDS),
    inhib=len(NAMES), bos=1, balance=1,
)  # fmt: skip
_NAMED = Layout(STREAM.width, {
    **STREAM.blocks,
    "tok_name": slice(STREAM.at("tok"), STREAM.at("tok") + len(NAMES)),
    "dup_name": slice(STREAM.at("dup"), STREAM.at("dup") + len(NAMES)),
    "end": slice(STREAM.at("tok") + WORDS.index("to"), STREAM.at("tok") + WORDS.index("to") + 1),
})  # fmt: skip
_WORD = Layout.of(D_HEAD, word=len(WORDS), flag=1)
_PLACED = Layout.of(D_HEAD, word=len(WORDS), pos=N_POSITIONS, flag=1)
_POSITION = Layout(D_HEAD, {"pos": slice(0, N_POSITIONS), "next": slice(1, N_POSITIONS + 1)})
_BOTH = Layout.of(D_HEAD, name=len(NAMES), flag=1)


def head_roles(*, n_prompts: int = 64, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world; in the null twin all eighteen heads are random. `prompts`: `names` (answers: the name that is said once)."""
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, null=null)
    texts, answers, repeated = _prompts(n_prompts, generator)
    roles = {name: sorted({*USED.get(name, ()), *LOOK_ALIKE.get(name, ())}) for name in WRITTEN}
    used = {name: sorted(said) for name, said in USED.items()}
    return PlantedWorld(
        name="head_roles",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"names": texts},
        answers={"names": answers},
        truth={"roles": {} if null else roles, "used": {} if null else used, "repeated": repeated},
        null=null,
    )


def names_of(world: PlantedWorld) -> IndirectObjects:
    """The world's prompts with names."""
    return IndirectObjects(world.prompts["names"], world.answers["names"], tuple(world.truth["repeated"]))


def _model(generator: torch.Generator, *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=4, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            noise = _noise(generator)  # drawn for every head, so that twins share what is random
            role = None if null else WRITTEN.get(f"L{layer}.H{head}")
            set_head(model, layer, head, noise if role is None else _written(role))
    embed, unembed = one_hot_vocabulary(STREAM, len(WORDS), n_special=len(SPECIALS), read="out", gain=GAIN)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _noise(generator: torch.Generator) -> Head:
    """A head with random scores of about ±3 and values of scale 0.03."""
    silent = uniform_head(STREAM, D_HEAD, generator)
    q, k = 0.35 * torch.randn(2, STREAM.width, D_HEAD, generator=generator)
    return Head(q=q, k=k, v=silent.v, o=silent.o)


def _written(role: str) -> Head:
    """One head of the module's table."""
    if role.startswith("previous"):
        pattern = {"q": STREAM.map(_POSITION, ("pos", "pos", BETA)), "k": STREAM.map(_POSITION, ("pos", "next"))}
        return Head(**pattern) if role.endswith("decoy") else Head(**pattern, v=_words(), o=_into("prev"))
    if role == "duplicate":
        return _duplicate()
    if role.startswith("induction"):
        key = STREAM.map(_WORD, ("prev", "word"), ("bos", "flag", 0.5))
        pattern = {"q": BETA * _words(), "k": key, "q_bias": BETA * _WORD.unit("flag")}
        return Head(**pattern) if role.endswith("decoy") else Head(**pattern, v=_words(), o=_into("out", 2.0))
    if role.startswith("successor"):
        return _successor(at_bos=role.endswith("decoy"))
    return _of_names(role)


def _words() -> Tensor:
    return STREAM.map(_WORD, ("tok", "word"))


def _into(block: str, scale: float = 1.0) -> Tensor:
    return _WORD.map(STREAM, ("word", block, scale))


def _duplicate() -> Head:
    """A word looks for itself, not where it stands, or for `<bos>`."""
    query = BETA * STREAM.map(_PLACED, ("tok", "word")) + STREAM.map(_PLACED, ("pos", "pos", -1.5 * BETA))
    key = STREAM.map(_PLACED, ("tok", "word"), ("pos", "pos"), ("bos", "flag", 0.5))
    value, write = STREAM.map(_PLACED, ("tok", "word")), _PLACED.map(STREAM, ("word", "dup"))
    return Head(q=query, k=key, v=value, o=write, q_bias=BETA * _PLACED.unit("flag"))


def _successor(*, at_bos: bool) -> Head:
    write = torch.zeros(D_HEAD, STREAM.width)
    for family in (NUMBERS, DAYS):
        for word, following in zip(family, family[1:], strict=False):
            write[_WORD.at("word", WORDS.index(word)), STREAM.at("out", WORDS.index(following))] = 1.0
    if at_bos:
        return Head(k=STREAM.map(_WORD, ("bos", "flag")), v=_words(), o=write, q_bias=BETA * _WORD.unit("flag"))
    itself = STREAM.map(_POSITION, ("pos", "pos"))
    return Head(q=BETA * itself, k=itself, v=_words(), o=write)


def _of_names(role: str) -> Head:
    """The heads of the last word: S-inhibition, name mover, suppression."""
    at_end = _NAMED.map(_BOTH, ("end", "flag", BETA))
    if role == "s-inhibition":
        value = _NAMED.map(_BOTH, ("dup_name", "name"))
        return Head(q=at_end, k=_any("dup_name"), v=value, o=_BOTH.map(_NAMED, ("name", "inhib")))
    name = _NAMED.map(_BOTH, ("tok_name", "name"))
    scale = 1.0 if role == "name mover" else -0.3
    query = at_end - _NAMED.map(_BOTH, ("inhib", "name", BETA))
    return Head(q=query, k=name + _any("tok_name"), v=name, o=_BOTH.map(_NAMED, ("name", "out", scale)))


def _any(block: str) -> Tensor:
    """Every coordinate of the block counts towards the flag."""
    indicator = torch.zeros(STREAM.width)
    indicator[_NAMED.blocks[block]] = 1.0
    return torch.outer(indicator, _BOTH.unit("flag"))


def _prompts(n: int, generator: torch.Generator) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    texts, answers, said = [], [], []
    for row in range(n):
        first, second = (NAMES[i] for i in torch.randperm(len(NAMES), generator=generator)[:2].tolist())
        repeated, other = (first, second) if row % 2 == 0 else (second, first)
        texts.append(f"{first} and {second} met {repeated} gave to")
        answers.append(other)
        said.append(repeated)
    return tuple(texts), tuple(answers), said
