"""The induction world: a previous-token head and an induction head, beside heads that only look like them.

Host: GPT2LMHeadModel, 2 layers × 4 heads, d_model 96 (d_head 24), 24 learned positions, ReLU MLPs whose weights are 0,
neutral norms (see `weights_by_hand`). Stream blocks: tok, pos, prev, out (one-hot), bos, balance. Weights:

    L0.H0  previous token   query β·pos_i against pos_j moved on by one; copies tok into prev
    L0.H1  decoy            the same attention, no value: the pattern without the effect
    L0.H2  match decoy      tok against tok × β, no value
    L0.H3, L1.H3  uniform   no scores, random values of scale 0.03
    L1.H0  induction        query β·tok against prev, `<bos>` a sink at β/2; copies tok into out
    L1.H1, L1.H2  idle      all 0

The unembedding reads out × 10. β is 12 (hard attention) or 2 (soft). A prompt is eight distinct words and one of them
again: the next word is its follower. The `key` corruption swaps two cue words in the context and leaves their
followers; `query` swaps the last word. Construction after FX-IND of the methods' specification, whose host has no norm.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch

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

WORDS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx")
N_POSITIONS = 24
D_HEAD = 24
N_HEADS = 4
BETAS = {"hard": 12.0, "soft": 2.0}
HOST = "GPT2LMHeadModel, 2 layers, 4 heads, d_model 96, neutral LayerNorm, MLPs zero"

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, prev=len(WORDS), out=len(WORDS), ans=len(WORDS), bos=1, balance=1
)
# inside a head: positions, and the same coordinates moved on by one (the last position has no follower)
_POSITION = Layout(D_HEAD, {"pos": slice(0, D_HEAD), "next": slice(1, D_HEAD)})
_WORD = Layout.of(D_HEAD, word=len(WORDS), sink=1)

ROLES = {
    "L0.H0": "previous_token",
    "L0.H1": "previous_token_decoy",
    "L0.H2": "duplicate_token_decoy",
    "L0.H3": "uniform",
    "L1.H0": "induction",
    "L1.H1": "idle",
    "L1.H2": "idle",
    "L1.H3": "uniform",
}

# Measured here in float32, means over 64 prompts of seeds 0 and 1 (which differ by less than the tolerance).
_LOGIT_DIFF = {"hard": {"clean": 9.97, "corrupted": -9.98}, "soft": {"clean": 1.64, "corrupted": -1.51}}
_UNIFORM = (0.132, 0.063, 0.063)
_PATTERNS = {
    "hard": {
        "L0.H0": (1.0, 0.0, 0.0),
        "L0.H1": (1.0, 0.0, 0.0),
        "L0.H2": (0.0, 0.5, 0.0),
        "L1.H0": (0.051, 0.0, 0.997),
    },
    "soft": {
        "L0.H0": (0.466, 0.044, 0.044),
        "L0.H1": (0.466, 0.044, 0.044),
        "L0.H2": (0.058, 0.255, 0.034),
        "L1.H0": (0.115, 0.055, 0.149),
    },
}
_NOISING = {"L0.H0": (1.0, 0.0), "L1.H0": (1.0, 1.0)}
_EDGES = {
    "key": [["embed", "L0.H0.v"], ["L0.H0", "L1.H0.k"], ["L1.H0", "logits"]],
    "query": [["embed", "L1.H0.q"], ["L1.H0", "logits"]],
}


def induction(
    *, attention: Literal["hard", "soft"] = "hard", n_prompts: int = 64, seed: int = 0, null: bool = False
) -> PlantedWorld:
    """Build the world. The null twin has eight uniform heads with random values in place of all that is planted.

    `truth`: `heads` by name, each with `role`, `noising` (normalised effect of its z under each corruption, metric
    `metric`) and `pattern` (attention to the previous token, to the same word ten back, and to what followed it, on
    `repeated`); `edges` by corruption; `logit_diff` by family; `accuracy`; `tolerance` of each kind of number over seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    model = induction_model(BETAS[attention], generator, read="out", null=null)
    prompts, answers = induction_prompts(n_prompts, generator)
    return PlantedWorld(
        name=f"induction_{attention}",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={**prompts, "repeated": repeated_prompts(n_prompts, generator)},
        answers=answers,
        truth={"heads": {}, "edges": {}, "accuracy": 1 / len(WORDS)} if null else _truth(attention),
        null=null,
    )


def _truth(attention: str) -> dict[str, Any]:
    heads = {}
    for name, role in ROLES.items():
        noising = _NOISING.get(name, (0.0, 0.0))
        pattern = _PATTERNS[attention].get(name, _UNIFORM)
        heads[name] = {
            "role": role,
            "noising": dict(zip(("key", "query"), noising, strict=True)),
            "pattern": dict(zip(("previous_token", "duplicate_token", "induction"), pattern, strict=True)),
        }
    clean, corrupted = _LOGIT_DIFF[attention].values()
    return {
        "metric": "logit of the clean answer minus logit of the corruption's answer, last position",
        "heads": heads,
        "edges": _EDGES,
        "logit_diff": {"clean": clean, "key": corrupted, "query": corrupted},
        "accuracy": 1.0,
        "tolerance": {"noising": 0.01, "pattern": 0.005, "logit_diff": 0.15},
    }


def induction_model(beta: float, generator: torch.Generator, *, read: str = "out", null: bool) -> "PreTrainedModel":
    """The host with the induction circuit in it; `read` is the block of the stream that the unembedding reads."""
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=2, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=2 * len(WORDS), d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for name, role in ROLES.items():
        # drawn for every head, so that twins share what is random
        noise = uniform_head(STREAM, D_HEAD, generator)
        layer, head = int(name[1]), int(name[4])
        set_head(model, layer, head, noise if null or role == "uniform" else written_head(role, beta))
    embed, unembed = one_hot_vocabulary(STREAM, len(WORDS), n_special=len(SPECIALS), read=read, gain=10.0)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def written_head(role: str, beta: float) -> Head:
    """The matrices of one planted head of the module's table."""
    previous = {"q": STREAM.map(_POSITION, ("pos", "pos", beta)), "k": STREAM.map(_POSITION, ("pos", "next"))}
    words = STREAM.map(_WORD, ("tok", "word"))
    if role == "previous_token":
        return Head(**previous, v=words, o=_WORD.map(STREAM, ("word", "prev")))
    if role == "previous_token_decoy":
        return Head(**previous)
    if role == "duplicate_token_decoy":
        return Head(q=beta * words, k=words)
    if role == "induction":
        key = STREAM.map(_WORD, ("prev", "word"), ("bos", "sink", 0.5))
        always = beta * _WORD.unit("sink")
        return Head(q=beta * words, k=key, v=words, o=_WORD.map(STREAM, ("word", "out")), q_bias=always)
    return Head()


def induction_prompts(
    n_prompts: int, generator: torch.Generator
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Prompts `clean`, `key`, `query` of 8 + 1 words, and the answers of each."""
    prompts: dict[str, list[str]] = {"clean": [], "key": [], "query": []}
    answers: dict[str, list[str]] = {"clean": [], "key": [], "query": []}
    for _ in range(n_prompts):
        context = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:8].tolist()]
        cue, other = _two_cues(generator)
        swapped = list(context)
        swapped[cue], swapped[other] = context[other], context[cue]
        for family, words, last in (
            ("clean", context, context[cue]),
            ("key", swapped, context[cue]),
            ("query", context, context[other]),
        ):
            prompts[family].append(" ".join([*words, last]))
            answers[family].append(words[words.index(last) + 1])
    return _frozen(prompts), _frozen(answers)


def repeated_prompts(n_prompts: int, generator: torch.Generator) -> tuple[str, ...]:
    """Ten distinct words, twice: the text on which the patterns of D1 are scored."""
    rows = [torch.randperm(len(WORDS), generator=generator)[:10].tolist() for _ in range(n_prompts)]
    return tuple(" ".join(WORDS[i] for i in row + row) for row in rows)


def _two_cues(generator: torch.Generator) -> tuple[int, int]:
    # two places of the context that have a follower and are not each other's
    while True:
        cue, other = torch.randint(0, 7, (2,), generator=generator).tolist()
        if abs(cue - other) > 1:
            return cue, other


def _frozen(families: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(rows) for name, rows in families.items()}
