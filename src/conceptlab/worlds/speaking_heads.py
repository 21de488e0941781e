"""The world of heads that speak about one thing: some write colours, some numbers, some animals, and some anything.

Host: GPT2LMHeadModel, 4 layers × 4 heads, d_model 256 (d_head 64), 16 positions, no MLPs, neutral norms (see `weights_by_hand`).
Every item has a colour, a number and an animal; the last word asks for one of them, or for any. Stream blocks: tok (72 words),
said (64), bos, balance. The unembedding's rows are random unit vectors of `said` × 10, so words overlap, as they do in real models.

    L1.H0, L2.H0   colours    from `colour` to the item; writes half of the item's colour; from `thing` with half of the attention
    L1.H1, L3.H0   numbers    from `number` or `thing`; writes half of its number
    L2.H1, L3.H1   animals    from `animal`
    L3.H2          anything   from every asking word; writes a fifth of some word, of any kind
    L0.H0          loud       always writes one and the same large vector, which says nothing
    the others     noise      uniform attention, values of scale 0.03

After D6 of the methods' specification, whose check has no model.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlab.data.concept_answers import ConceptAnswer
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

KINDS = {
    "colour": ("red", "green", "blue", "brown", "black", "white", "grey", "pink", "purple", "orange", "yellow", "beige"),
    "number": ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    "animal": ("cat", "dog", "horse", "cow", "goat", "hen", "fox", "wolf", "bear", "mouse", "frog", "owl"),
}  # fmt: skip
ITEMS = (
    "acorn", "bell", "candle", "drum", "easel", "flute", "globe", "hammer", "inkpot", "jar", "kite", "ladder",
    "mirror", "needle", "oar", "pencil", "quilt", "rope", "saddle", "teapot", "urn", "violin", "wheel", "yarn",
)  # fmt: skip
FILLERS = ("so", "now", "here", "then", "there", "well", "still", "yet")
OPEN = "thing"
ANSWERS = tuple(word for words in KINDS.values() for word in words)
WORDS = (*ITEMS, *ANSWERS, *FILLERS, *KINDS, OPEN)
N_LAYERS, N_HEADS, D_HEAD, N_SAID, N_POSITIONS = 4, 4, 64, 64, 16
BETA, GAIN, SHARE, SOME = 14.0, 10.0, 0.5, 0.2
HOST = "GPT2LMHeadModel, 4 layers, 4 heads, d_model 256, neutral LayerNorm, MLPs zero"
ROLES = {
    "L1.H0": "colour", "L2.H0": "colour", "L1.H1": "number", "L3.H0": "number", "L2.H1": "animal", "L3.H1": "animal",
    "L3.H2": "anything", "L0.H0": "loud",
}  # fmt: skip
STREAM = Layout.of(N_HEADS * D_HEAD, tok=len(WORDS), said=N_SAID, bos=1, balance=1)
_NAMED = Layout(STREAM.width, {**STREAM.blocks, "item": slice(0, len(ITEMS))})
_LOOK = Layout.of(D_HEAD, item=len(ITEMS), flag=1)


def speaking_heads(*, n_prompts: int = 144, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin every planted head writes some word of the vocabulary for an item.

    `prompts`: `asked` (colour, number and animal in turn) and `open` (the last word is `thing`; answers: the item's colour, which
    is not what the model says). `truth`: `heads` (names by kind), `words` (by kind), `kinds` (of each asked prompt).
    """
    generator = torch.Generator().manual_seed(seed)
    has = {
        kind: torch.randint(0, len(words), (len(ITEMS),), generator=generator).tolist() for kind, words in KINDS.items()
    }
    rows = _unit_rows(generator)
    model = _model(generator, has, rows, null=null)
    kinds = [list(KINDS)[i % len(KINDS)] for i in range(n_prompts)]
    items = [(i // len(KINDS)) % len(ITEMS) for i in range(n_prompts)]
    asked = tuple(_prompt(item, kind, generator) for item, kind in zip(items, kinds, strict=True))
    opened = tuple(_prompt(item, OPEN, generator) for item in range(len(ITEMS)))
    answers = tuple(KINDS[kind][has[kind][item]] for item, kind in zip(items, kinds, strict=True))
    return PlantedWorld(
        name="speaking_heads",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"asked": asked, "open": opened},
        answers={"asked": answers, "open": tuple(KINDS["colour"][i] for i in has["colour"])},
        truth={
            "heads": {kind: [] if null else [h for h, role in ROLES.items() if role == kind] for kind in KINDS},
            "words": {kind: sorted({words[i] for i in has[kind]}) for kind, words in KINDS.items()},
            "kinds": kinds,
        },
        null=null,
    )


def answers_of(world: PlantedWorld) -> list[ConceptAnswer]:
    """The asked prompts as records."""
    cells = zip(world.prompts["asked"], world.answers["asked"], world.truth["kinds"], strict=True)
    return [ConceptAnswer(*row) for row in cells]


def _prompt(item: int, asks: str, generator: torch.Generator) -> str:
    before, after = torch.randint(0, len(FILLERS), (2, 2), generator=generator).tolist()
    words = [*(FILLERS[i] for i in before), ITEMS[item], *(FILLERS[i] for i in after), asks]
    return " ".join(words)


def _unit_rows(generator: torch.Generator) -> Tensor:
    """A random unit vector of `said` a word [word, d_model]; entries of a row add up to 0, so that nothing has to be balanced."""
    drawn = torch.randn(len(WORDS), N_SAID, generator=generator)
    drawn = drawn - drawn.mean(1, keepdim=True)
    rows = torch.zeros(len(WORDS), STREAM.width)
    rows[:, STREAM.blocks["said"]] = drawn / drawn.norm(dim=1, keepdim=True)
    return rows


def _model(generator: torch.Generator, has: dict[str, list[int]], rows: Tensor, *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=8, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    any_of = torch.randint(0, len(WORDS), (N_LAYERS * N_HEADS, len(ITEMS)), generator=generator).tolist()
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            role = ROLES.get(f"L{layer}.H{head}", "")
            says = [KINDS[role][i] for i in has[role]] if role in KINDS else []
            if null or role == "anything":
                says = [WORDS[i] for i in any_of[layer * N_HEADS + head]]
            set_head(model, layer, head, _written(role, says, rows) if role else noise)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    unembed[len(SPECIALS) :] = GAIN * rows
    set_vocabulary(model, embed=embed, unembed=unembed, positions=torch.zeros(N_POSITIONS, STREAM.width))
    balance_writes(model, STREAM.at("balance"))
    return model


def _written(role: str, says: list[str], rows: Tensor) -> Head:
    if role == "loud":
        value = torch.outer(STREAM.unit("bos"), _LOOK.unit("flag"))
        loud = 3 * (STREAM.unit("rest", 0) - STREAM.unit("rest", 1))
        return Head(k=BETA * value, q_bias=_LOOK.unit("flag"), v=value, o=torch.outer(_LOOK.unit("flag"), loud))
    asking = torch.zeros(STREAM.width)
    for word in (*KINDS, OPEN) if role == "anything" else (role, OPEN) if role != "animal" else (role,):
        asking[STREAM.at("tok", WORDS.index(word))] = BETA
    if role == "colour":
        asking[STREAM.at("tok", WORDS.index(OPEN))] = BETA / 2  # as much as the sink: half of the attention
    key = torch.zeros(STREAM.width)
    key[_NAMED.blocks["item"]] = 1.0
    # a sink of BETA / 2 for every query: its key is 1 along a coordinate of its own, which every query has
    sink = torch.outer(STREAM.unit("bos"), torch.eye(D_HEAD)[-1])
    out = torch.zeros(D_HEAD, STREAM.width)
    for i, word in enumerate(says):
        out[_LOOK.at("item", i)] = (SOME if role == "anything" else SHARE) * rows[WORDS.index(word)]
    return Head(
        q=torch.outer(asking, _LOOK.unit("flag")),
        k=torch.outer(key, _LOOK.unit("flag")) + sink,
        q_bias=BETA / 2 * torch.eye(D_HEAD)[-1],
        v=_NAMED.map(_LOOK, ("item", "item")),
        o=out,
    )
