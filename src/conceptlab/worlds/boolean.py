"""OR and AND worlds: two induction heads whose votes an MLP joins, so that one path hides the other.

Host: that of `induction` (hard attention), with L1.H1 a copy of the induction head L1.H0, and an MLP in layer 1 that
reads what both wrote: with two votes of 1 for a word, out is 2. It computes, word by word,

    or   min(out, 1) = relu(out) - relu(out - 1)     neurons 2i and 2i + 1 for word i
    and  relu(out - 1)                               neuron 2i + 1

into the block ans, which the unembedding reads × 10. The metric is the logit of the clean answer (a logit difference
would give each branch of OR one half, since the corrupted prompt votes for its own answer). Noising one branch shows
nothing under OR, denoising one shows nothing under AND. Construction after FX-OR and FX-AND of the methods'
specification, whose host has no norm.
"""

from typing import TYPE_CHECKING, Any, Literal

import torch

from conceptlab.worlds.induction import (
    BETAS,
    N_POSITIONS,
    STREAM,
    WORDS,
    induction_model,
    induction_prompts,
    written_head,
)
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import Neuron, balance_writes, set_head, set_neuron
from conceptlab.worlds.word_tokenizer import word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HOST = "GPT2LMHeadModel, 2 layers, 4 heads, d_model 96, neutral LayerNorm, one ReLU MLP"


def boolean(*, gate: Literal["or", "and"], n_prompts: int = 64, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin all heads are uniform with random values, and no neuron writes anything.

    `truth`: `heads` that are planted, by name, each with `role`, `noising` and `denoising` (normalised effect of its z
    under each corruption, metric `metric`); every other head has effects below `tolerance`. `neurons` that join the votes
    by name, `edges` by corruption, `answer_logit` by family, `accuracy`, `tolerance` over seeds.
    """
    generator = torch.Generator().manual_seed(seed)
    model = induction_model(BETAS["hard"], generator, read="ans", null=null)
    if not null:
        _write_gate(model, gate)
    prompts, answers = induction_prompts(n_prompts, generator)
    return PlantedWorld(
        name=f"boolean_{gate}",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers=answers,
        truth={"heads": {}, "edges": {}, "accuracy": 1 / len(WORDS)} if null else _truth(gate),
        null=null,
    )


def _truth(gate: str) -> dict[str, Any]:
    # measured here in float32 over 64 prompts of seeds 0 and 1: a hidden branch shows at most 0.005
    noised, denoised = (0.0, 1.0) if gate == "or" else (1.0, 0.0)
    branch = {
        "role": f"{gate}_branch",
        "noising": {"key": noised, "query": noised},
        "denoising": {"key": denoised, "query": denoised},
    }
    source = {
        "role": "previous_token",
        "noising": {"key": 1.0, "query": 0.0},
        "denoising": {"key": 1.0, "query": 0.0},
    }
    first = range(len(WORDS)) if gate == "or" else ()
    neurons = sorted([2 * i for i in first] + [2 * i + 1 for i in range(len(WORDS))])
    branches = ("L1.H0", "L1.H1")
    joined = [*([name, "L1.mlp"] for name in branches), ["L1.mlp", "logits"]]
    return {
        "metric": "logit of the clean answer, last position",
        "gate": gate,
        "heads": {"L0.H0": source, **{name: branch for name in branches}},
        "neurons": [f"L1.N{n}" for n in neurons],
        "edges": {
            "key": [["embed", "L0.H0.v"], *(["L0.H0", f"{name}.k"] for name in branches), *joined],
            "query": [*(["embed", f"{name}.q"] for name in branches), *joined],
        },
        "answer_logit": {"clean": 10.0 if gate == "or" else 9.93, "key": 0.0, "query": 0.0},
        "accuracy": 1.0,
        "tolerance": {"noising": 0.01, "answer_logit": 0.05},
    }


def _write_gate(model: "PreTrainedModel", gate: str) -> None:
    set_head(model, 1, 1, written_head("induction", BETAS["hard"]))
    for i in range(len(WORDS)):
        out, ans = STREAM.unit("out", i), STREAM.unit("ans", i)
        if gate == "or":
            set_neuron(model, 1, 2 * i, Neuron(w_in=out, w_out=ans))
        set_neuron(model, 1, 2 * i + 1, Neuron(w_in=out, w_out=ans if gate == "and" else -ans, bias=-1.0))
    balance_writes(model, STREAM.at("balance"))
