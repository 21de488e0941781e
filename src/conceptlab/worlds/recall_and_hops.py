"""The world of recall and reasoning: facts in one set of heads and neurons, two-hop answers in another, decoys beside them.

Host: GPT2LMHeadModel, 3 layers × 4 heads, d_model 128 (d_head 32), 16 learned positions, ReLU MLPs of 16, neutral norms (see
`weights_by_hand`). Texts are those of `recall_puzzles` with six subjects, middles and attributes. Stream blocks: tok (21 words),
pos, prev (subjects, middles and the two modes), subj, mid, got, fact and out (6 each), spare (which nothing reads), bos, balance.

    L0.H0  previous  every position looks one back; copies the word into prev. Both tasks need it, no corruption changes it
    L0.H1  shared    every position looks at itself; copies the subject into subj
    L1.H0  hop 1     after `find`: looks for the sentence of the subject, copies its middle into mid; after `know`: at `<bos>`
    L1.mlp facts     neuron i: relu(subj_i + know - 1) writes the fact of subject i into fact
    L2.H0  hop 2     after `find`: looks for an attribute after that middle, copies it into got
    L2.H1  writer    looks at itself; copies fact × 6 logits into out
    L2.mlp answers   neuron i: relu(got_i + find - 1) writes attribute i × 6 logits into out
    decoys           L1.H1 the pattern of hop 1 without a value; L1.H2 the same after `know` and L2.H2 the pattern of hop 2, both
                     copying into spare; neurons L1.N6..11 fire for subject and `find`, L2.N6..11 for fact and `know`, L1.N12 and
                     L1.N13 for a mode: all of them write into spare
    the others       uniform heads with random values of scale 0.03

So a patch of the last word restores the whole answer from L0.H1 in both tasks, from L2.H1 in recall and from L1.H0 or L2.H0 in
reasoning, and half of it from one neuron (the other half is the wrong neuron falling silent). In the null twin both tasks
are answered by the hops: `know` acts as `find` does, no fact is written, and the answers of both families are those of the text.
Construction after D10 of the methods' specification.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.recall_puzzles import MODES, make_puzzles, pairs_of, words
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

N, N_POSITIONS, D_HEAD, N_HEADS, D_MLP = 6, 16, 32, 4, 16
BETA, GAIN, LOGITS = 20.0, 10.0, 6.0
WORDS = words(N)
HOST = "GPT2LMHeadModel, 3 layers, 4 heads, d_model 128, neutral LayerNorm, ReLU MLPs of 16"

STREAM = Layout.of(
    N_HEADS * D_HEAD, tok=len(WORDS), pos=N_POSITIONS, prev=2 * N + 2, subj=N, mid=N, got=N, fact=N, out=N, spare=N, bos=1,
    balance=1,
)  # fmt: skip


def _part(block: str, first: int, size: int) -> slice:
    return slice(STREAM.at(block, first), STREAM.at(block, first) + size)


_NAMED = Layout(
    STREAM.width,
    {
        **STREAM.blocks,
        "subject": _part("tok", 0, N),
        "middle": _part("tok", N, N),
        "subject_middle": _part("tok", 0, 2 * N),
        "attribute": _part("tok", 2 * N, N),
        "modes": _part("tok", 3 * N, 2),
        "prev_subject": _part("prev", 0, N),
        "prev_middle": _part("prev", N, N),
        "prev_modes": _part("prev", 2 * N, 2),
        "prev_know": _part("prev", 2 * N, 1),
        "prev_find": _part("prev", 2 * N + 1, 1),
    },
)
_LOOK = Layout.of(D_HEAD, word=2 * N, modes=2, flag=1, sink=1)
# inside a positional head: the same coordinates moved on by one
_POSITION = Layout(D_HEAD, {"pos": slice(0, N_POSITIONS), "next": slice(1, N_POSITIONS + 1)})

RECALL = {"heads": ("L2.H1",), "neurons": tuple(f"L1.N{i}" for i in range(N))}
REASONING = {"heads": ("L1.H0", "L2.H0"), "neurons": tuple(f"L2.N{i}" for i in range(N))}
SHARED, PREVIOUS = "L0.H1", "L0.H0"
DECOYS = {"heads": ("L1.H1", "L1.H2", "L2.H2"), "neurons": tuple(f"L{i}.N{j}" for i in (1, 2) for j in range(N, 2 * N)) + (
    "L1.N12", "L1.N13")}  # fmt: skip


def recall_and_hops(*, n_prompts: int = 96, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. In the null twin the same heads and neurons answer both tasks.

    `prompts`: `recall` and `reasoning` with `recall_corrupted` and `reasoning_corrupted`, row by row about the same context;
    answers of all four. `truth`: `recall` and `reasoning`, the `heads` and `neurons` that serve one task alone, `shared` and
    `previous` (heads that both need), `decoys`, `effects` (of one patch at the last word, by head and task) and `neuron_effect`
    (of a neuron in a row that it is about). All of it is derived, not measured.
    """
    generator = torch.Generator().manual_seed(seed)
    facts = torch.randperm(N, generator=generator).tolist()
    puzzles = make_puzzles(n_prompts, facts, np.random.default_rng(seed))
    prompts, answers = {}, {}
    for task in MODES:
        pairs = pairs_of(puzzles, task, facts, answered_as="reasoning" if null else "")
        prompts |= {task: pairs.clean, f"{task}_corrupted": pairs.corrupted}
        answers |= {task: pairs.answer, f"{task}_corrupted": pairs.distractor}
    return PlantedWorld(
        name="recall_and_hops",
        host=HOST,
        model=_model(generator, facts, null=null),
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers=answers,
        truth=_truth(null=null),
        null=null,
    )


def _truth(*, null: bool) -> dict[str, Any]:
    nothing = {"heads": [], "neurons": []}
    if null:
        return {"recall": nothing, "reasoning": nothing, "shared": "", "previous": "", "decoys": nothing, "effects": {}}
    whole = {"recall": 1.0, "reasoning": 1.0}
    effects = {SHARED: whole, "L2.H1": {**whole, "reasoning": 0.0}}
    effects |= {hop: {**whole, "recall": 0.0} for hop in REASONING["heads"]}
    sets = {"recall": RECALL, "reasoning": REASONING, "decoys": DECOYS}
    return {
        **{name: {kind: list(units) for kind, units in found.items()} for name, found in sets.items()},
        "shared": SHARED,
        "previous": PREVIOUS,
        "effects": effects,
        "neuron_effect": 0.5,
    }


def _model(generator: torch.Generator, facts: list[int], *, null: bool) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=3, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=D_MLP, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    written = _heads(null=null)
    for layer in range(3):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            set_head(model, layer, head, written.get((layer, head), noise))
    for layer, neurons in _neurons(facts, null=null).items():
        for i, neuron in enumerate(neurons):
            set_neuron(model, layer, i, neuron)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
    for i in range(N):
        unembed[len(SPECIALS) + 2 * N + i] = GAIN * STREAM.unit("out", i)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _heads(*, null: bool) -> dict[tuple[int, int], Head]:
    """Every written head by layer and number."""
    hops = ("prev_find", "prev_know") if null else ("prev_find",)
    here = {"k": _NAMED.map(_POSITION, ("pos", "pos"))}
    itself = {**here, "q": _NAMED.map(_POSITION, ("pos", "pos", BETA))}
    to_spare = _LOOK.map(_NAMED, ("word", "spare"))
    return {
        (0, 0): Head(
            q=_NAMED.map(_POSITION, ("pos", "pos", BETA)),
            k=_NAMED.map(_POSITION, ("pos", "next")),
            v=_NAMED.map(_LOOK, ("subject_middle", "word"), ("modes", "modes")),
            o=_LOOK.map(_NAMED, ("word", "prev"), ("modes", "prev_modes")),
        ),
        (0, 1): Head(**itself, v=_NAMED.map(_LOOK, ("subject", "word")), o=_LOOK.map(_NAMED, ("word", "subj"))),
        (1, 0): _hop_one(hops, _LOOK.map(_NAMED, ("word", "mid"))),
        (1, 1): _hop_one(hops, None),
        (1, 2): _hop_one(("prev_know",), to_spare),
        (2, 0): _hop_two(hops, _LOOK.map(_NAMED, ("word", "got"))),
        (2, 1): Head(
            **itself, v=_NAMED.map(_LOOK, ("fact", "word")), o=_LOOK.map(_NAMED, ("word", "out", LOGITS / GAIN))
        ),
        (2, 2): _hop_two(hops, to_spare),
    }


def _hop_one(modes: tuple[str, ...], writes: Tensor | None) -> Head:
    """After `modes` the sentence of the subject scores β and `<bos>` β / 2; after the other mode `<bos>` scores 2 β."""
    query = BETA * _NAMED.map(_LOOK, ("subj", "word"))
    for mode in ("prev_know", "prev_find"):
        query[_NAMED.at(mode), _LOOK.at("sink")] = BETA * (0.5 if mode in modes else 2.0)
    key = _NAMED.map(_LOOK, ("prev_subject", "word"), ("bos", "sink"))
    value = None if writes is None else _NAMED.map(_LOOK, ("middle", "word"))
    return Head(q=query, k=key, v=value, o=writes)


def _hop_two(modes: tuple[str, ...], writes: Tensor) -> Head:
    """An attribute after the middle scores 2 β, another or the middle alone β, `<bos>` 1.5 β."""
    query = BETA * _NAMED.map(_LOOK, ("mid", "word"))
    for mode in ("prev_know", "prev_find"):
        query[_NAMED.at(mode), _LOOK.at("flag")] = BETA if mode in modes else 0.0
        query[_NAMED.at(mode), _LOOK.at("sink")] = 1.5 * BETA
    key = _NAMED.map(_LOOK, ("prev_middle", "word"), ("bos", "sink"))
    key[_NAMED.blocks["attribute"], _LOOK.at("flag")] = 1.0
    return Head(q=query, k=key, v=_NAMED.map(_LOOK, ("attribute", "word")), o=writes)


def _neurons(facts: list[int], *, null: bool) -> dict[int, list[Neuron]]:
    """The written neurons by layer, in order."""
    know, find = _NAMED.unit("prev_know"), _NAMED.unit("prev_find")

    def both(block: str, i: int, mode: Tensor, write: Tensor) -> Neuron:
        return Neuron(w_in=STREAM.unit(block, i) + mode, w_out=write, bias=-1.0)

    def spare(i: int) -> Tensor:
        return STREAM.unit("spare", i)

    known = [both("subj", i, know, STREAM.unit("fact", fact) * (not null)) for i, fact in enumerate(facts)]
    answers = [both("got", i, know + find if null else find, LOGITS / GAIN * STREAM.unit("out", i)) for i in range(N)]
    alike = [both("subj", i, find, spare(i)) for i in range(N)]
    told = [both("fact", i, know, spare(i)) for i in range(N)]
    return {1: [*known, *alike, Neuron(know, spare(0)), Neuron(find, spare(1))], 2: [*answers, *told]}
