"""The phrase world: an answer that rests on three words of which any one would do, so that no gradient sees them.

Host: GPT2LMHeadModel, 1 layer x 2 heads, d_model 64 (d_head 32), 16 learned positions, 4 ReLU neurons, neutral norms (see
`weights_by_hand`). A prompt is `<bos>`, twelve words and `so`: three praising words stand together at a random place (the planted
phrase), two mild words stand apart, the rest are fillers. Weights:

    L0.H0   uniform attention; a praising word adds 1 to the coordinate `praise` (whatever the length of the row: it is 14),
            a mild word 0.2 straight to the answer
    L0.mlp  min(praise, 1) = relu(praise) - relu(praise - 1), written to the answer; with `saturated=False` relu(praise) / 3 instead
    L0.H1   uniform attention, random values of scale 0.03

The unembedding reads the answer x 10: `yes` against `no` (which is always 0). Without the phrase the logit difference falls by 10,
without a mild word by 2, without one word of the phrase not at all.
"""

from typing import TYPE_CHECKING, Any

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

PRAISING = ("superb", "brilliant", "glorious", "splendid", "marvellous", "dazzling")
MILD = ("decent", "pleasant", "tidy", "fair")
FILLERS = (
    "the",
    "film",
    "about",
    "a",
    "train",
    "that",
    "ran",
    "past",
    "old",
    "hills",
    "in",
    "rain",
    "with",
    "two",
    "men",
)
ANSWERS = ("yes", "no")
WORDS = (*PRAISING, *MILD, *FILLERS, "so", *ANSWERS)
N_WORDS = 12
N_TOKENS = N_WORDS + 2
D_HEAD = 32
MILD_WEIGHT = 0.2
HOST = "GPT2LMHeadModel, 1 layer, 2 heads, d_model 64, neutral LayerNorm, ReLU MLP"

STREAM = Layout.of(2 * D_HEAD, tok=len(WORDS), pos=16, praise=1, answer=1, bos=1, balance=1)
_INSIDE = Layout.of(D_HEAD, praise=1, answer=1)


def saturated_phrase(*, saturated: bool = True, n_prompts: int = 64, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin both heads have random values and no neuron writes anything.

    `truth`: `phrases` (start, stop) of each row in tokens (`<bos>` is token 0), `mild` their positions, `drop` of the logit
    difference without the phrase, without a mild word, without one word of the phrase; `logit_diff`; `tolerance`.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, saturated=saturated, null=null)
    rows = [_prompt(generator) for _ in range(n_prompts)]
    truth: dict[str, Any] = {"phrases": [[r[1], r[1] + 3] for r in rows], "mild": [r[2] for r in rows]}
    if not null:
        one = 0.0 if saturated else 10 / 3
        truth |= {"drop": {"phrase": 10.0, "mild": 10 * MILD_WEIGHT, "one_word": one}}
        truth |= {"logit_diff": 10 * (1 + 2 * MILD_WEIGHT), "tolerance": 0.3}
    return PlantedWorld(
        name="saturated_phrase" if saturated else "plain_phrase",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, 16),
        prompts={"clean": tuple(r[0] for r in rows)},
        answers={"clean": ("yes",) * n_prompts, "other": ("no",) * n_prompts},
        truth=truth,
        null=null,
    )


def _model(generator: torch.Generator, *, saturated: bool, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(n_layers=1, n_heads=2, d_head=D_HEAD, d_mlp=4, d_vocab=d_vocab, n_positions=16)
    first, second = (uniform_head(STREAM, D_HEAD, generator) for _ in range(2))
    set_head(model, 0, 0, first if null else _reader())
    set_head(model, 0, 1, second)
    if not null:
        praise, answer = STREAM.unit("praise"), STREAM.unit("answer")
        set_neuron(model, 0, 0, Neuron(w_in=praise, w_out=answer if saturated else answer / 3))
        if saturated:
            set_neuron(model, 0, 1, Neuron(w_in=praise, w_out=-answer, bias=-1.0))
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    unembed[len(SPECIALS) + WORDS.index("yes")] = 10 * STREAM.unit("answer")
    positions = torch.stack([STREAM.unit("pos", i) for i in range(16)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _reader() -> Head:
    """Uniform attention over the row; times the row's length, so that every word counts as if it were alone."""
    value = torch.zeros(STREAM.width, D_HEAD)
    for i in range(len(PRAISING)):
        value[STREAM.at("tok", i), _INSIDE.at("praise")] = N_TOKENS
    for i in range(len(PRAISING), len(PRAISING) + len(MILD)):
        value[STREAM.at("tok", i), _INSIDE.at("answer")] = N_TOKENS * MILD_WEIGHT
    return Head(v=value, o=_INSIDE.map(STREAM, ("praise", "praise"), ("answer", "answer")))


def _prompt(generator: torch.Generator) -> tuple[str, int, list[int]]:
    """One text, the token where its phrase starts, and the tokens of its two mild words."""

    def some(words: tuple[str, ...], n: int) -> list[str]:
        return [words[i] for i in torch.randperm(len(words), generator=generator)[:n].tolist()]

    words = some(FILLERS, N_WORDS)
    start = int(torch.randint(0, N_WORDS - 2, (1,), generator=generator))
    words[start : start + 3] = some(PRAISING, 3)
    free = [i for i in range(N_WORDS) if not start <= i < start + 3]
    mild = [free[i] for i in torch.randperm(len(free), generator=generator)[:2].tolist()]
    for place, word in zip(mild, some(MILD, 2), strict=True):
        words[place] = word
    return " ".join([*words, "so"]), start + 1, sorted(i + 1 for i in mild)
