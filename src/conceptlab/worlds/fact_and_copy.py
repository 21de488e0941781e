"""The world of facts against copies: an MLP that knows, a head that copies, and a head that writes against what it reads.

Host: GPT2LMHeadModel, 3 layers × 4 heads, d_model 128 (d_head 32), 16 learned positions, ReLU MLPs, neutral norms (see
`weights_by_hand`). Stream blocks: tok (33 words), pos, subj (12), out (12 attributes), bos and balance. A prompt is
`<bos> redefine S is A . S is`: the fact says t, the attribute of S; the context says c, the word A. Weights:

    L0.H0  subject mover  every position looks one back; copies the subject into subj, so that the last word knows S
    L1.mlp facts          one neuron a subject writes its strength m (0.6 to 3.4 logits) on t
    L2.H0  copy           the last word looks for attributes, `<bos>` a sink; writes +6 logits on what it reads
    L2.H1  suppressor     the same with attention of exactly 0.2 on A; writes -5 logits on what it reads
    L2.H2  decoy          the pattern of the suppressor, no value
    the other heads       uniform attention, random values of scale 0.03, nothing written on tok and bos

So logit[c] = 6 - 1 and logit[t] = m. With the suppressor's attention on A multiplied by α after softmax, logit[c] = 6 - α and the
fact wins at α = 6 - m; with the row renormalised it wins at α = 4 w / (1 - w), w = (6 - m) / 5, or never. Multiplying the score
raises the attention where that score is positive and lowers it where it is negative (`score_sign`), which leaves the unscaled
model as it is. Construction after E11 of the methods' specification (system: Ortu et al. 2024, Competition of Mechanisms).
"""

import math
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
    set_head,
    set_neuron,
    set_vocabulary,
    uniform_head,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUBJECTS = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jon", "Kim", "Leo")
ATTRIBUTES = ("amber", "blue", "coral", "dun", "ebony", "fawn", "green", "ivory", "jade", "khaki", "lilac", "mauve")
FILLERS = ("it", "so", "yet", "now", "here", "there")
WORDS = (*SUBJECTS, *ATTRIBUTES, *FILLERS, "redefine", "is", ".")
N_POSITIONS = 16
D_HEAD = 32
N_HEADS = 4
BETA = 14.0
GAIN = 10.0  # of the unembedding
COPY, SUPPRESS, ATTENTION = 6.0, -5.0, 0.2  # logits per unit of attention; the suppressor's attention on A
LOW = -8.0  # the suppressor's score of every other word
HOST = "GPT2LMHeadModel, 3 layers, 4 heads, d_model 128, neutral LayerNorm"

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, subj=len(SUBJECTS), out=len(ATTRIBUTES), bos=1, balance=1
)
_NAMED = Layout(
    STREAM.width,
    {
        **STREAM.blocks,
        "subject": slice(0, len(SUBJECTS)),
        "attribute": slice(len(SUBJECTS), len(SUBJECTS) + len(ATTRIBUTES)),
        "is": slice(WORDS.index("is"), WORDS.index("is") + 1),
    },
)
_LOOK = Layout.of(D_HEAD, word=len(SUBJECTS), flag=1)
# inside a positional head: the same coordinates moved on by one
_POSITION = Layout(D_HEAD, {"pos": slice(0, N_POSITIONS), "next": slice(1, N_POSITIONS + 1)})

ROLES = {"L0.H0": "subject_mover", "L2.H0": "copy", "L2.H1": "suppressor", "L2.H2": "decoy"}
STRENGTHS = (0.6, 1.2, 1.6, 2.2, 2.7, 3.4) * 2  # noise of 0.13 logits moves no row over α = 0.5, 1, 2, 5, 10, 50


def fact_and_copy(*, n_prompts: int = 96, score_sign: int = 1, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin has twelve uniform heads with random values and no facts.

    `prompts`: `conflict` (t against c), `consistent` (the context says t), `neutral` (a filler word stands at A) and `plain`
    (`<bos> S is`); answers are t, and `counterfactual` (the prompts of `conflict`, answers c).
    `truth`: `heads` by name with `role`, `writes` (logits on the word it reads, per unit of attention), `attention` (to A from the
    last word) and `direct` (its part of logit[t] - logit[c]); `facts` (t by subject), `strengths` [row], `flips` and
    `flips_renormalised` [row] (the α from which the fact wins, None: never); `attribute_position`; `fact_layer`; `tolerance`.
    All of it is derived, not measured.
    """
    generator = torch.Generator().manual_seed(seed)
    facts = torch.randperm(len(ATTRIBUTES), generator=generator).tolist()
    model = _model(generator, facts, score_sign, null=null)
    rows = _rows(n_prompts, facts, generator)
    prompts, answers = _prompts(rows, facts, generator)
    return PlantedWorld(
        name="fact_and_copy",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers=answers,
        truth={"heads": {}, "facts": {}, "attribute_position": 4} if null else _truth(rows, facts),
        null=null,
    )


def _model(generator: torch.Generator, facts: list[int], score_sign: int, *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=3, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=len(SUBJECTS), d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(3):
        for head in range(N_HEADS):
            noise = _noise(generator)  # drawn for every head, so that twins share what is random
            role = None if null else ROLES.get(f"L{layer}.H{head}")
            set_head(model, layer, head, noise if role is None else _written_head(role, score_sign))
    for i, fact in enumerate(facts if not null else ()):
        write = STRENGTHS[i] / GAIN * STREAM.unit("out", fact)
        set_neuron(model, 1, i, Neuron(w_in=STREAM.unit("subj", i), w_out=write))
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    for i in range(len(ATTRIBUTES)):
        unembed[len(SPECIALS) + len(SUBJECTS) + i] = GAIN * STREAM.unit("out", i)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _noise(generator: torch.Generator) -> Head:
    """A uniform head that leaves alone the words and the sink, which the suppressor's exact scores are made of."""
    noise = uniform_head(STREAM, D_HEAD, generator)
    written = torch.ones(STREAM.width)
    for block in ("tok", "bos"):
        written[STREAM.blocks[block]] = 0.0
    return Head(v=noise.v, o=None if noise.o is None else noise.o * written)


def _written_head(role: str, score_sign: int) -> Head:
    if role == "subject_mover":
        return Head(
            q=_NAMED.map(_POSITION, ("pos", "pos", BETA)),
            k=_NAMED.map(_POSITION, ("pos", "next")),
            v=_NAMED.map(_LOOK, ("subject", "word")),
            o=_LOOK.map(_NAMED, ("word", "subj")),
        )
    at_end = _NAMED.map(_LOOK, ("is", "flag"))
    reads = _NAMED.map(_LOOK, ("attribute", "word"))
    if role == "copy":
        key = BETA * (_any("attribute") + 0.5 * _any("bos"))
        return Head(q=at_end, k=key, v=reads, o=_LOOK.map(_NAMED, ("word", "out", COPY / GAIN)))
    value = reads if role == "suppressor" else None
    return Head(q=at_end, k=_part_key(score_sign), v=value, o=_LOOK.map(_NAMED, ("word", "out", SUPPRESS / GAIN)))


def _part_key(score_sign: int) -> Tensor:
    """Keys that give one attribute among seven other tokens and the `<bos>` sink the attention 0.2, its score being ±1."""
    sink = math.log(math.exp(score_sign) * (1 / ATTENTION - 1) - 6 * math.exp(LOW))
    others = _any("tok") - _any("attribute")
    return score_sign * _any("attribute") + sink * _any("bos") + LOW * others


def _any(block: str) -> Tensor:
    indicator = torch.zeros(STREAM.width)
    indicator[_NAMED.blocks[block]] = 1.0
    return torch.outer(indicator, _LOOK.unit("flag"))


def _rows(n: int, facts: list[int], generator: torch.Generator) -> list[tuple[int, int]]:
    """Subject and counterfactual attribute of every row; subjects as often as each other, no row's own fact."""
    draws = torch.randint(1, len(ATTRIBUTES), (n,), generator=generator).tolist()
    return [(i % len(SUBJECTS), (facts[i % len(SUBJECTS)] + shift) % len(ATTRIBUTES)) for i, shift in enumerate(draws)]


def _prompts(
    rows: list[tuple[int, int]], facts: list[int], generator: torch.Generator
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    def text(subject: int, said: str) -> str:
        return f"redefine {SUBJECTS[subject]} is {said} . {SUBJECTS[subject]} is"

    fillers = torch.randint(0, len(FILLERS), (len(rows),), generator=generator).tolist()
    prompts = {
        "conflict": tuple(text(s, ATTRIBUTES[c]) for s, c in rows),
        "consistent": tuple(text(s, ATTRIBUTES[facts[s]]) for s, _ in rows),
        "neutral": tuple(text(s, FILLERS[f]) for (s, _), f in zip(rows, fillers, strict=True)),
        "plain": tuple(f"{SUBJECTS[s]} is" for s, _ in rows),
    }
    true = tuple(ATTRIBUTES[facts[s]] for s, _ in rows)
    prompts["counterfactual"] = prompts["conflict"]
    said = tuple(ATTRIBUTES[c] for _, c in rows)
    return prompts, {name: said if name == "counterfactual" else true for name in prompts}


def _truth(rows: list[tuple[int, int]], facts: list[int]) -> dict[str, Any]:
    strengths = [STRENGTHS[s] for s, _ in rows]
    weights = [(COPY - m) / -SUPPRESS for m in strengths]  # the attention at which the two logits are equal
    odds = ATTENTION / (1 - ATTENTION)
    heads = {
        "L0.H0": {"role": "subject_mover", "writes": 0.0, "attention": 0.0, "direct": 0.0},
        "L2.H0": {"role": "copy", "writes": COPY, "attention": 1.0, "direct": -COPY},
        "L2.H1": {"role": "suppressor", "writes": SUPPRESS, "attention": ATTENTION, "direct": -SUPPRESS * ATTENTION},
        "L2.H2": {"role": "decoy", "writes": 0.0, "attention": ATTENTION, "direct": 0.0},
    }
    return {
        "metric": "logit of the fact minus logit of the counterfactual, last position",
        "heads": heads,
        "facts": {SUBJECTS[i]: ATTRIBUTES[fact] for i, fact in enumerate(facts)},
        "strengths": strengths,
        "flips": [COPY - m for m in strengths],
        "flips_renormalised": [w / (1 - w) / odds if w < 1 else None for w in weights],
        "attribute_position": 4,
        "fact_layer": 1,
        "tolerance": {"logit": 0.17, "attention": 0.002},
    }
