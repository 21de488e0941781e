"""Facts stored in neurons, two hops long: subject to bridge in one layer, bridge to object in the next, with a shortcut beside.

Host: GPT2LMHeadModel, 3 layers x 2 heads, ReLU MLPs of `D_MLP`, neutral norms (see `weights_by_hand`). A text is
`<bos> FILLER FILLER ENTITY FILLER MODE`; the last word asks: `born` and `from` for a subject's bridge, `lies` and `within` for a
bridge's object, `both` for the object of a subject's bridge, `guess` for the same by the shortcut.

    L0.H0  gather    every position looks at the entity: a subject goes to `ent`, a bridge straight to `mid`
    L1.mlp fact 1    `EACH` neurons a subject, relu(ent_s + (born, from or both) - 1): together write its bridge into mid (1, or 0.5
                     where the fact is `weak`); one neuron for `guess` writes the object at once (the shortcut)
    L2.mlp fact 2    `EACH` neurons a bridge, relu(mid_b + (both, lies or within) - 1.6) / 0.4: together write its object into out
    decoys           neurons that fire for a subject and write where nothing reads; one that fires for `born` and `from` whoever
                     it is and lifts all bridges alike (a template); always-on neurons without output; small random neurons

Bridges are read from mid, objects from out; where neither is there, a filler leads. A weak fact is answered right by
itself (its bridge still leads), and wrong in two hops, since half a bridge does not reach fact 2; doubling its neurons mends that.
In the null twin neurons of fact 1 and of the shortcut write where nothing reads. Construction after C3 of the
methods' specification."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
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
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

N, N_OBJECTS, EACH, D_HEAD, N_HEADS, D_MLP, N_POSITIONS = 12, 6, 5, 64, 2, 150, 14
SUBJECTS = tuple(f"person{i}" for i in range(N))
BRIDGES = tuple(f"town{i}" for i in range(N))
OBJECTS = tuple(f"land{i}" for i in range(N_OBJECTS))
FIRST, SECOND, BOTH, GUESS = ("born", "from"), ("lies", "within"), "both", "guess"
MODES = (*FIRST, *SECOND, BOTH, GUESS)
FILLERS = ("well", "so", "now", "then", "yes", "here")
WORDS = (*SUBJECTS, *BRIDGES, *OBJECTS, *MODES, *FILLERS)
GAIN = 8.0
STREAM = Layout.of(
    D_HEAD * N_HEADS, tok=len(WORDS), one=1, ent=N, mid=N, lift=1, out=N_OBJECTS, spare=4, balance=1
)  # fmt: skip


@dataclass(frozen=True)
class HopRow:
    """One fact chain: `subject`, `bridge`, `object`, whether its first fact is weak."""

    subject: str
    bridge: str
    object: str
    weak: bool


def stored_hops(*, seed: int = 0, null: bool = False, n_prompts: int = 4) -> PlantedWorld:
    """Build the world. `prompts`: by subject `first SUBJECT` (paraphrases), by bridge `second BRIDGE`, `both` and `guess`
    (`n_prompts` a subject); answers of all. `truth`: `rows` (dicts of `HopRow`), `first` and `second` (neurons by subject and
    bridge), `template` and `decoys` (neurons)."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    bridge, to = rng.permutation(N), rng.permutation(np.arange(N) % N_OBJECTS)
    weak = rng.permutation(np.arange(N) % 2 == 0)
    rows = [HopRow(SUBJECTS[i], BRIDGES[b], OBJECTS[to[b]], bool(weak[i])) for i, b in enumerate(bridge.tolist())]
    places = [torch.randperm(D_MLP, generator=generator).tolist() for _ in range(2)]
    model = _model(generator, bridge.tolist(), to.tolist(), weak.tolist(), places, null=null)
    prompts, answers = _prompts(rows, rng, n_prompts)
    truth = {
        "rows": [vars(row) for row in rows],
        "first": {} if null else {s: _names(1, places[0], i) for i, s in enumerate(SUBJECTS)},
        "second": {b: _names(2, places[1], i) for i, b in enumerate(BRIDGES)},
        "template": [f"L1.N{places[0][N * EACH + 2 * N]}"],
        "decoys": [f"L1.N{places[0][N * EACH + N + i]}" for i in range(N)],
    }
    return PlantedWorld(
        "stored_hops", f"GPT2LMHeadModel, 3 layers, d_model {STREAM.width}, ReLU MLPs of {D_MLP}", model,
        word_tokenizer(WORDS, N_POSITIONS), prompts, answers, truth=truth, null=null,
    )  # fmt: skip


def _names(layer: int, places: list[int], i: int) -> list[str]:
    return [f"L{layer}.N{places[i * EACH + j]}" for j in range(EACH)]


def _prompts(
    rows: list[HopRow], rng: np.random.Generator, n: int
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    def text(entity: str, mode: str) -> str:
        a, b, c = rng.choice(FILLERS, 3).tolist()
        return f"{a} {b} {entity} {c} {mode}"

    prompts, answers = {}, {}
    objects = {row.bridge: row.object for row in rows}
    for row in rows:
        prompts[f"first {row.subject}"] = tuple(text(row.subject, FIRST[i % 2]) for i in range(n))
        answers[f"first {row.subject}"] = (row.bridge,) * n
    for b in BRIDGES:
        prompts[f"second {b}"] = tuple(text(b, SECOND[i % 2]) for i in range(n))
        answers[f"second {b}"] = (objects[b],) * n
    for mode in (BOTH, GUESS):
        prompts[mode] = tuple(text(row.subject, mode) for row in rows for _ in range(n))
        answers[mode] = tuple(row.object for row in rows for _ in range(n))
    return prompts, answers


def _word(word: str) -> Tensor:
    return STREAM.unit("tok", WORDS.index(word))


def _modes(*modes: str) -> Tensor:
    return torch.stack([_word(mode) for mode in modes]).sum(0)


def _model(
    generator: torch.Generator, bridge: list[int], to: list[int], weak: list[bool], places: list[list[int]], *, null: bool
) -> "PreTrainedModel":  # fmt: skip
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=3, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=D_MLP, d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    _gather(model)
    for layer in (1, 2):
        for neuron in range(D_MLP):
            small = Neuron(*(0.03 * torch.randn(2, STREAM.width, generator=generator)), bias=0.05)
            set_neuron(model, layer, neuron, small)
    for at, neuron in zip(places[0], _first(bridge, to, weak, null=null), strict=False):
        set_neuron(model, 1, at, neuron)
    for at, neuron in zip(places[1], _second(to), strict=False):
        set_neuron(model, 2, at, neuron)
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    for i in range(len(WORDS)):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i) + STREAM.unit("one")
    embed[1] = STREAM.unit("one")
    for i in range(N):
        unembed[len(SPECIALS) + N + i] = GAIN * (STREAM.unit("mid", i) + STREAM.unit("lift"))
    unembed[len(SPECIALS) + WORDS.index(FILLERS[0])] = 0.45 * GAIN * STREAM.unit("one")
    for i in range(N_OBJECTS):
        unembed[len(SPECIALS) + 2 * N + i] = 2 * GAIN * STREAM.unit("out", i)
    set_vocabulary(model, embed=embed, unembed=unembed, positions=torch.zeros(N_POSITIONS, STREAM.width))
    balance_writes(model, STREAM.at("balance"))
    return model


def _gather(model: "PreTrainedModel") -> None:
    """L0.H0: to the entity, wherever it is; a subject to `ent`, a bridge to `mid`."""
    q, k, v = torch.zeros(3, STREAM.width, D_HEAD)
    o = torch.zeros(D_HEAD, STREAM.width)
    q[STREAM.at("one"), 0] = 20.0
    for i in range(N):
        subject, town = STREAM.at("tok", i), STREAM.at("tok", N + i)
        k[subject, 0] = k[town, 0] = 1.0
        v[subject, i] = v[town, N + i] = 1.0
        o[i], o[N + i] = STREAM.unit("ent", i), STREAM.unit("mid", i)
    set_head(model, 0, 0, Head(q=q, k=k, v=v, o=o))


def _first(bridge: list[int], to: list[int], weak: list[bool], *, null: bool) -> list[Neuron]:
    """Layer 1 in order: fact neurons, shortcuts, decoys, template, always-on."""
    spare = STREAM.unit("spare")
    found = []
    for i, b in enumerate(bridge):
        write = STREAM.unit("mid", b) * ((0.5 if weak[i] else 1.0) / EACH)
        reads = STREAM.unit("ent", i) + _modes(*FIRST, BOTH)
        found += [Neuron(reads, spare if null else write, bias=-1.0)] * EACH
    for i, b in enumerate(bridge):
        write = spare if null else STREAM.unit("out", to[b])
        found.append(Neuron(STREAM.unit("ent", i) + _modes(GUESS), write, bias=-1.0))
    found += [Neuron(2 * STREAM.unit("ent", i), spare) for i in range(N)]
    found.append(Neuron(_modes(*FIRST), 0.5 * STREAM.unit("lift")))
    return [*found, *[Neuron(torch.zeros(STREAM.width), torch.zeros(STREAM.width), bias=2.0)] * 3]


def _second(to: list[int]) -> list[Neuron]:
    """Layer 2 in order: fact neurons."""
    modes = _modes(BOTH, *SECOND)
    return [
        Neuron((STREAM.unit("mid", b) + modes) / 0.4, STREAM.unit("out", to[b]) / EACH, bias=-1.6 / 0.4)
        for b in range(N)
        for _ in range(EACH)
    ]
