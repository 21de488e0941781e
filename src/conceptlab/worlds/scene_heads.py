"""A dual encoder written by hand: heads that each look at one kind of patch, heads that mix kinds, and one that has a prejudice.

The image side is a GPT2LMHeadModel, 4 layers × 4 heads, d_model 256 (d_head 64), 16 positions, no MLPs, neutral norms: a scene is a
row of patches and a last token `look` that gathers them. The text side is a table: 50 texts, ten of each of five kinds, random unit
vectors of a joint space of 96 coordinates; the unembedding's rows are the texts × 10, so that logits are image-text products.

    L0.H0, L1.H0, L2.H0, L3.H0, L2.H1   pure   colour, shape, animal, place, job: looks at the patch of that kind, writes its text
    L1.H1, L2.H2, L3.H1                 mixed  looks at every patch; writes a tenth of one text of each kind, nothing of the others
    L2.H1 (job)                         prejudice: of a person without a job it writes `doctor` for a man, `nurse` for a woman
    the others                          noise  uniform attention, values of scale 0.03

After D7 of the methods' specification, whose check has no model.
"""

from typing import TYPE_CHECKING

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

KINDS = {
    "colour": ("red", "green", "blue", "brown", "black", "white", "grey", "pink", "purple", "yellow"),
    "shape": ("circle", "square", "star", "cross", "ring", "cube", "cone", "arrow", "spiral", "line"),
    "animal": ("cat", "dog", "horse", "cow", "goat", "hen", "fox", "wolf", "bear", "mouse"),
    "place": ("beach", "forest", "street", "kitchen", "field", "harbour", "market", "bridge", "garden", "tower"),
    "job": ("doctor", "nurse", "baker", "pilot", "tailor", "judge", "miner", "singer", "farmer", "guard"),
}  # fmt: skip
TEXTS = tuple(word for words in KINDS.values() for word in words)
MAN, WOMAN, LOOK = "man", "woman", "look"
WORDS = (*TEXTS, MAN, WOMAN, LOOK)
N_LAYERS, N_HEADS, D_HEAD, D_JOINT, N_POSITIONS = 4, 4, 64, 96, 16
BETA, GAIN, TRACE, PREJUDICE = 14.0, 10.0, 0.1, 0.5
HOST = "GPT2LMHeadModel, 4 layers, 4 heads, d_model 256, neutral LayerNorm, MLPs zero"
PURE = dict(zip(KINDS, ("L0.H0", "L1.H0", "L2.H0", "L3.H0", "L2.H1"), strict=True))
MIXED = ("L1.H1", "L2.H2", "L3.H1")
STREAM = Layout.of(N_HEADS * D_HEAD, tok=len(WORDS), joint=D_JOINT, bos=1, balance=1)
_SEEN = Layout.of(D_HEAD, word=len(WORDS), flag=1)


def scene_heads(*, n_scenes: int = 200, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin the five pure heads write some text of any kind for a patch.

    `prompts`: `scenes` (one patch of each kind) and `people` (a man or a woman in turn, no job). `truth`: `pure` (head by kind),
    `mixed`, `shown` (by kind, the text of every scene), `kinds` (of every text, in the order of `texts`).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = _unit_rows(generator)
    model = _model(generator, rows, null=null)
    drawn = torch.randint(0, 10, (n_scenes, len(KINDS)), generator=generator).tolist()
    scenes = [[words[i] for words, i in zip(KINDS.values(), row, strict=True)] for row in drawn]
    orders = [torch.randperm(len(KINDS), generator=generator).tolist() for _ in scenes]
    people = [[scene[0], scene[3], MAN if i % 2 == 0 else WOMAN] for i, scene in enumerate(scenes[: n_scenes // 2 * 2])]
    return PlantedWorld(
        name="scene_heads",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={
            "scenes": tuple(" ".join([*(s[i] for i in order), LOOK]) for s, order in zip(scenes, orders, strict=True)),
            "people": tuple(" ".join([*p, LOOK]) for p in people),
        },
        truth={
            "pure": {} if null else PURE,
            "mixed": list(MIXED),
            "shown": {kind: [scene[i] for scene in scenes] for i, kind in enumerate(KINDS)},
            "texts": list(TEXTS),
            "kinds": [kind for kind, words in KINDS.items() for _ in words],
        },
        null=null,
    )


def _unit_rows(generator: torch.Generator) -> Tensor:
    """A random unit vector of the joint space a text [text, d_model]; its entries add up to 0, so that nothing is balanced."""
    drawn = torch.randn(len(TEXTS), D_JOINT, generator=generator)
    drawn = drawn - drawn.mean(1, keepdim=True)
    rows = torch.zeros(len(TEXTS), STREAM.width)
    rows[:, STREAM.blocks["joint"]] = drawn / drawn.norm(dim=1, keepdim=True)
    return rows


def _model(generator: torch.Generator, rows: Tensor, *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=8, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    kinds = {name: kind for kind, name in PURE.items()}
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            name, noise = f"L{layer}.H{head}", uniform_head(STREAM, D_HEAD, generator)
            any_of = torch.randint(0, len(TEXTS), (len(TEXTS),), generator=generator).tolist()
            one_of = torch.randint(0, 10, (len(KINDS),), generator=generator).tolist()
            if name in kinds:
                set_head(model, layer, head, _pure(kinds[name], rows, any_of if null else None))
            else:
                set_head(model, layer, head, _mixed(rows, one_of) if name in MIXED else noise)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    unembed[len(SPECIALS) : len(SPECIALS) + len(TEXTS)] = GAIN * rows
    set_vocabulary(model, embed=embed, unembed=unembed, positions=torch.zeros(N_POSITIONS, STREAM.width))
    balance_writes(model, STREAM.at("balance"))
    return model


def _looking(words: list[str]) -> tuple[Tensor, Tensor]:
    """Queries of `look` and keys of some patches, with `<bos>` a sink for everybody else."""
    query, key = torch.zeros(2, STREAM.width, D_HEAD)
    query[STREAM.at("tok", WORDS.index(LOOK)), _SEEN.at("flag")] = BETA
    for word in words:
        key[STREAM.at("tok", WORDS.index(word)), _SEEN.at("flag")] = 1.0
    key[STREAM.at("bos"), -1] = 1.0
    return query, key


def _pure(kind: str, rows: Tensor, any_of: list[int] | None) -> Head:
    """Stronger for some texts than for others, so that one after the other explains most."""
    words = list(KINDS[kind])
    out = torch.zeros(D_HEAD, STREAM.width)
    for i, word in enumerate(words):
        text = TEXTS.index(word) if any_of is None else any_of[TEXTS.index(word)]
        out[_SEEN.at("word", WORDS.index(word))] = (1.0 - 0.04 * i) * rows[text]
    if kind == "job" and any_of is None:
        words += [MAN, WOMAN]
        out[_SEEN.at("word", WORDS.index(MAN))] = PREJUDICE * rows[TEXTS.index("doctor")]
        out[_SEEN.at("word", WORDS.index(WOMAN))] = PREJUDICE * rows[TEXTS.index("nurse")]
    return _head(words, out)


def _mixed(rows: Tensor, one_of: list[int]) -> Head:
    out = torch.zeros(D_HEAD, STREAM.width)
    for (kind, words), which in zip(KINDS.items(), one_of, strict=True):
        out[_SEEN.at("word", WORDS.index(words[which]))] = len(KINDS) * TRACE * rows[TEXTS.index(KINDS[kind][which])]
    return _head(list(TEXTS), out)


def _head(words: list[str], out: Tensor) -> Head:
    query, key = _looking(words)
    bias = BETA / 2 * torch.eye(D_HEAD)[-1]
    return Head(q=query, k=key, q_bias=bias, v=STREAM.map(_SEEN, ("tok", "word")), o=out)
