"""The hidden-steps world: sums are worked out where fillers are written, stay readable, and are covered in the last block.

Host: GPT2LMHeadModel, 3 layers × 4 heads, d_model 128 (d_head 32), 16 learned positions, ReLU MLPs of 40 neurons, neutral norms
(see `weights_by_hand`). Texts are those of `filler_chain` with five numbers below 6:
`<bos> MODE t x1 … x5 : s1 s2 s3 s4 =`. Stream blocks: tok, pos, left and right (6 numbers each), sum and want (11 sums each),
hide, out (every word), bos and balance. Weights, β = 14:

    L0.H0, L0.H1  operands  positions that write a step look 5 and 4 back; copy the number into left and right
    L0.H2         mode      every position looks at position 1; copies `hide` into hide
    L0.H3         target    `=` looks at position 2; copies the number word into want
    (a position with nothing to look at looks at `<bos>`, which holds no word)
    L0.mlp        adder     one neuron a pair: relu(left_u + right_v - 1) writes sum u + v
    L1.H0         judge     `=` looks for a sum that is wanted, `<bos>` a sink at β/2; writes yes from a sum, no from `<bos>`
    L2.mlp        filler    relu(hide + place - 1), place the mark of the four positions that write a step: writes `.` × 3
    the other seven heads   uniform attention, random values of scale 0.03

The unembedding reads out × 10 and, for number words, sum × 10 too; `=` comes from the position before it. So sums are the
first choice in layers 0 and 1 and the runner-up of the filler in layer 2. In the null twin number words read random mixtures of the
sums, and answers are as right as before: the steps are worked out, but not in the words that name them.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.worlds.filler_chain import FIRST_NUMBER, MARKS, YES, FillerTask, chain_rows, tokenizer_of
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
from conceptlab.worlds.word_tokenizer import SPECIALS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TASK = FillerTask(n_numbers=5, base=6, n_layers=3, d_model=128)
N_POSITIONS, N_HEADS, D_HEAD, D_MLP = 16, 4, 32, 40
N_WORDS = len(MARKS) + TASK.n_sums
BETA, GAIN, COVER = 14.0, 10.0, 3.0
HOST = "GPT2LMHeadModel, 3 layers, 4 heads, d_model 128, neutral LayerNorm, ReLU MLPs of 40"

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=N_WORDS, pos=N_POSITIONS, left=6, right=6, sum=TASK.n_sums, want=TASK.n_sums, hide=1, place=1,
    out=N_WORDS, bos=1, balance=1,
)  # fmt: skip
_FIRST = len(MARKS)  # the number words inside tok and out
_NAMED = Layout(
    STREAM.width,
    {
        **STREAM.blocks,
        "number": slice(_FIRST, _FIRST + 6),
        "any_number": slice(_FIRST, N_WORDS),
        "hiding": slice(MARKS.index("hide"), MARKS.index("hide") + 1),
        "equals": slice(MARKS.index("="), MARKS.index("=") + 1),
        "yes": slice(STREAM.at("out", YES - len(SPECIALS)), STREAM.at("out", YES - len(SPECIALS)) + 1),
        "no": slice(STREAM.at("out", YES - len(SPECIALS)) + 1, STREAM.at("out", YES - len(SPECIALS)) + 2),
    },
)
_LOOK = Layout.of(D_HEAD, word=TASK.n_sums, flag=1, sink=1)
_HERE = Layout(D_HEAD, {"pos": slice(0, N_POSITIONS)})
WRITERS = range(TASK.first_step - 1, TASK.first_step + TASK.n_steps - 1)  # positions that write a step
EQUALS_AT = TASK.first_step + TASK.n_steps


def hidden_steps(*, n_prompts: int = 64, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin number words read random mixtures of the sums.

    `prompts`: `hidden` and `shown`, the same rows with fillers and with their sums; answers are yes or no. `truth`: `steps` (ids
    [row][step]), `filler` and `skip` (ids), `overwrite` and `read` (labels of the lens' layer axis), `recovered` by label,
    `heads` by name with their role, `accuracy`. Nothing is measured, all of it is derived.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _model(generator, null=null)
    families = {
        name: chain_rows(TASK, n_prompts, np.random.default_rng(seed), hidden=name == "hidden")
        for name in ("hidden", "shown")
    }
    words = (*SPECIALS, *MARKS, *map(str, range(TASK.n_sums)))
    return PlantedWorld(
        name="hidden_steps",
        host=HOST,
        model=model,
        tokenizer=tokenizer_of(TASK),
        prompts={
            name: tuple(" ".join(words[i] for i in ids[1:]) for ids in rows.prompts().ids)
            for name, rows in families.items()
        },
        answers={name: tuple(words[i] for i in rows.answers) for name, rows in families.items()},
        truth=_truth(families["hidden"].steps.tolist(), null=null),
        null=null,
    )


def _truth(steps: list[list[int]], *, null: bool) -> dict[str, Any]:
    roles = ("left operand", "right operand", "mode", "target")
    heads = {**{f"L0.H{i}": {"role": role} for i, role in enumerate(roles)}, "L1.H0": {"role": "judge"}}
    return {
        "steps": steps,
        "filler": len(SPECIALS) + MARKS.index("."),
        "skip": [0, 1, 2, *(len(SPECIALS) + MARKS.index(word) for word in ("show", "hide", ":", "="))],
        "heads": heads,
        "overwrite": "2",
        "read": "1",
        "recovered": {} if null else {"0": 1.0, "1": 1.0, "2": 1.0},
        "accuracy": 1.0,
    }


def _model(generator: torch.Generator, *, null: bool) -> "PreTrainedModel":
    model = empty_gpt2(
        n_layers=3,
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_mlp=D_MLP,
        d_vocab=len(SPECIALS) + N_WORDS,
        n_positions=N_POSITIONS,
    )
    written = {
        (0, 0): _operand("left", 5),
        (0, 1): _operand("right", 4),
        (0, 2): _mode(),
        (0, 3): _target(),
        (1, 0): _judge(),
    }
    for layer in range(3):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            set_head(model, layer, head, written.get((layer, head), noise))
    for u in range(TASK.base):
        for v in range(TASK.base):
            reads = STREAM.unit("left", u) + STREAM.unit("right", v)
            set_neuron(model, 0, TASK.base * u + v, Neuron(w_in=reads, w_out=STREAM.unit("sum", u + v), bias=-1.0))
    cover = COVER * STREAM.unit("out", MARKS.index("."))
    set_neuron(model, 2, 0, Neuron(w_in=STREAM.unit("hide") + STREAM.unit("place"), w_out=cover, bias=-1.0))
    set_vocabulary(model, embed=_embedding(), unembed=_unembedding(generator if null else None), positions=_positions())
    balance_writes(model, STREAM.at("balance"))
    return model


def _embedding() -> Tensor:
    embed = torch.zeros(len(SPECIALS) + N_WORDS, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(N_WORDS):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    return embed


def _unembedding(scrambled: torch.Generator | None) -> Tensor:
    unembed = torch.zeros(len(SPECIALS) + N_WORDS, STREAM.width)
    for i in range(N_WORDS):
        unembed[len(SPECIALS) + i] = GAIN * STREAM.unit("out", i)
    n = TASK.n_sums
    names = torch.eye(n) if scrambled is None else 2 * torch.rand(n, n, generator=scrambled) - 1
    unembed[FIRST_NUMBER:, STREAM.blocks["sum"]] = GAIN * names
    return unembed


def _positions() -> Tensor:
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    for i in WRITERS:
        positions[i] += STREAM.unit("place")
    positions[EQUALS_AT - 1] += COVER * STREAM.unit("out", MARKS.index("="))  # more than a sum that is seen by the way
    return positions


def _operand(into: str, back: int) -> Head:
    """Positions that write a step look `back` positions back."""
    return _fetch({i: i - back for i in WRITERS}, ("number", "word"), ("word", into))


def _mode() -> Head:
    return _fetch(dict.fromkeys(range(1, N_POSITIONS), 1), ("hiding", "flag"), ("flag", "hide"))


def _target() -> Head:
    return _fetch({EQUALS_AT: 2}, ("any_number", "word"), ("word", "want"))


def _fetch(at: Mapping[int, int], reads: tuple[str, str], writes: tuple[str, str]) -> Head:
    """Each position looks at position `at` of it, or at `<bos>`, which holds no word."""
    query = torch.zeros(STREAM.width, D_HEAD)
    for i in range(N_POSITIONS):
        query[STREAM.at("pos", i), at.get(i, 0)] = BETA
    value, out = _NAMED.map(_LOOK, reads), _LOOK.map(_NAMED, writes)
    return Head(q=query, k=_NAMED.map(_HERE, ("pos", "pos")), v=value, o=out)


def _judge() -> Head:
    """`=` scores β for a sum that is wanted and β / 2 for `<bos>`."""
    query = BETA * _NAMED.map(_LOOK, ("want", "word"), ("equals", "sink", 0.5))
    seen = torch.zeros(STREAM.width, D_HEAD)
    seen[STREAM.blocks["sum"], _LOOK.at("flag")] = 1.0
    value = seen + _NAMED.map(_LOOK, ("bos", "sink"))
    return Head(
        q=query,
        k=_NAMED.map(_LOOK, ("sum", "word"), ("bos", "sink")),
        v=value,
        o=_LOOK.map(_NAMED, ("flag", "yes"), ("sink", "no")),
    )
