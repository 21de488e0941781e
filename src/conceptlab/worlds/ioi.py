"""The indirect-object world: duplicate-token, S-inhibition, name-mover and negative-mover heads.

Host: GPT2LMHeadModel, 3 layers × 4 heads, d_model 128 (d_head 32), 16 learned positions, ReLU MLPs whose weights are 0,
neutral norms (see `weights_by_hand`). Stream blocks: tok (17 words), pos, dup, inhib, out (12 names each), bos and
balance.
A prompt is `<bos> n1 and n2 met S2 gave to`: seven words in which one of the two names occurs twice. Weights, β = 14:

    L0.H0  duplicate token  a name looks for itself, the same position penalised by 1.5β, `<bos>` a sink at β/2;
                            copies the name into dup, at the second occurrence
    L1.H0  S-inhibition     the last word (`to`) looks for any dup; copies it into inhib
    L2.H0  name mover       the last word looks for names not in inhib; copies the name into out
    L2.H1  negative mover   the same with output × -0.3
    the other eight         uniform attention, random values of scale 0.03

The unembedding reads out × 10. The corruption `swapped` lets S2 be the other name, so that the answer is the other one;
`distinct` puts a third name there, so that nothing is repeated. Construction after FX-IOI of the methods'
specification (circuit: Wang et al. 2022, arXiv:2211.00593), whose host has no norm.
"""

from typing import TYPE_CHECKING, Any

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

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hugo", "Iris", "Jon", "Kim", "Leo")
WORDS = (*NAMES, "and", "met", "gave", "to", "then")
N_POSITIONS = 16
D_HEAD = 32
N_HEADS = 4
BETA = 14.0
HOST = "GPT2LMHeadModel, 3 layers, 4 heads, d_model 128, neutral LayerNorm, MLPs zero"

STREAM = Layout.of(N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, dup=12, inhib=12, out=12, bos=1, balance=1)
# names come first among the words, and `to` is the word at the end
_NAMED = Layout(STREAM.width, {**STREAM.blocks, "tok": slice(0, len(NAMES)), "end": slice(15, 16)})
_LOOK = Layout.of(D_HEAD, name=len(NAMES), pos=N_POSITIONS, flag=1)

ROLES = {
    "L0.H0": "duplicate_token",
    "L1.H0": "s_inhibition",
    "L2.H0": "name_mover",
    "L2.H1": "negative_name_mover",
}

# Measured here in float32, means over 64 prompts of seeds 0 and 1 (which differ by less than the tolerance).
_NOISING = {"L0.H0": 1.0, "L1.H0": 1.0, "L2.H0": 1.429, "L2.H1": -0.429}
_ZERO_ABLATED = {"L0.H0": -2.33, "L1.H0": -2.32, "L2.H0": -2.99, "L2.H1": 10.01}
_COPIES = {"L2.H0": 1, "L2.H1": -1}
_EDGES = [
    ["L1.H0", "L2.H0.q", 1.429],
    ["L1.H0", "L2.H1.q", -0.429],
    ["L1.H0", "L2.H0.k", 0.0],
    ["L1.H0", "L2.H0.v", 0.0],
    ["L1.H0", "logits", 0.0],
    ["L2.H0", "logits", 1.429],
    ["L2.H1", "logits", -0.429],
]


def ioi(*, n_prompts: int = 64, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin has twelve uniform heads with random values.

    `truth`: `heads` that are planted, by name, each with `role`, `noising` (normalised effect of its z under `swapped`,
    metric `metric`), `zero_ablated` (the metric with its z at 0) and `copies` (1: writes the name it reads, -1: against
    it); every other head has a noising effect below `tolerance`. `edges` are paths (sender, receiver, normalised effect).
    `logit_diff` by family; `accuracy`; `tolerance` of each kind of number over seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, null=null)
    prompts, answers = _prompts(n_prompts, generator)
    return PlantedWorld(
        name="ioi",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers=answers,
        truth={"heads": {}, "edges": {}, "accuracy": 1 / len(NAMES)} if null else _truth(),
        null=null,
    )


def _truth() -> dict[str, Any]:
    heads = {
        name: {
            "role": role,
            "noising": _NOISING[name],
            "zero_ablated": _ZERO_ABLATED[name],
            **({"copies": _COPIES[name]} if name in _COPIES else {}),
        }
        for name, role in ROLES.items()
    }
    return {
        "metric": "logit of the name that is not repeated minus logit of the repeated one, last position",
        "heads": heads,
        "edges": _EDGES,
        "logit_diff": {"clean": 7.01, "swapped": -6.98, "distinct": -0.05},
        "accuracy": 1.0,
        "tolerance": {"noising": 0.01, "logit_diff": 0.15, "zero_ablated": 0.15},
    }


def _model(generator: torch.Generator, *, null: bool) -> "PreTrainedModel":
    model = empty_gpt2(
        n_layers=3,
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_mlp=4,
        d_vocab=len(SPECIALS) + len(WORDS),
        n_positions=N_POSITIONS,
    )
    for layer in range(3):
        for head in range(N_HEADS):
            # drawn for every head, so that twins share what is random
            noise = uniform_head(STREAM, D_HEAD, generator)
            role = None if null else ROLES.get(f"L{layer}.H{head}")
            set_head(model, layer, head, noise if role is None else _written_head(role))
    embed, unembed = one_hot_vocabulary(STREAM, len(WORDS), n_special=len(SPECIALS), read="out", gain=10.0)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _written_head(role: str) -> Head:
    name = _NAMED.map(_LOOK, ("tok", "name"))
    at_end = _NAMED.map(_LOOK, ("end", "flag", BETA))
    if role == "duplicate_token":
        query = BETA * name + _NAMED.map(_LOOK, ("pos", "pos", -1.5 * BETA))
        key = name + _NAMED.map(_LOOK, ("pos", "pos"), ("bos", "flag", 0.5))
        copy = _LOOK.map(_NAMED, ("name", "dup"))
        return Head(q=query, k=key, v=name, o=copy, q_bias=BETA * _LOOK.unit("flag"))
    if role == "s_inhibition":
        return Head(
            q=at_end,
            k=_any(_NAMED, "dup"),
            v=_NAMED.map(_LOOK, ("dup", "name")),
            o=_LOOK.map(_NAMED, ("name", "inhib")),
        )
    query = at_end - _NAMED.map(_LOOK, ("inhib", "name", BETA))
    strength = 1.0 if role == "name_mover" else -0.3
    return Head(q=query, k=name + _any(_NAMED, "tok"), v=name, o=_LOOK.map(_NAMED, ("name", "out", strength)))


def _any(layout: Layout, block: str) -> torch.Tensor:
    # every coordinate of the block counts towards the flag
    indicator = torch.zeros(layout.width)
    indicator[layout.blocks[block]] = 1.0
    return torch.outer(indicator, _LOOK.unit("flag"))


def _prompts(
    n_prompts: int, generator: torch.Generator
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    rows = []
    for row in range(n_prompts):
        first, second, third = (NAMES[i] for i in torch.randperm(len(NAMES), generator=generator)[:3].tolist())
        # both orders as often: the repeated name is the first one, then the second one
        repeated, other = (first, second) if row % 2 == 0 else (second, first)
        texts = [f"{first} and {second} met {name} gave to" for name in (repeated, other, third)]
        rows.append((*texts, other, repeated))
    clean, swapped, distinct, answer, answer_swapped = zip(*rows, strict=True)
    return {"clean": clean, "swapped": swapped, "distinct": distinct}, {"clean": answer, "swapped": answer_swapped}
