"""The ontology world: a bigram prior against rules in the context, answered along two redundant pathways.

Host: GPT2LMHeadModel, 8 layers × 6 heads, d_model 192 (d_head 32), 20 learned positions, ReLU MLPs, neutral norms (see
`weights_by_hand`). A prompt is `<bos> A is B . A' is B' . x is A . y is A' . x seems`, statements in any order inside each half;
the answer follows x to its concept A and A to its class B. Weights, β = 14, `rift` = 4 by default:

    L0.mlp      prior       one neuron a last word (`seems`, `looks`, …) writes 3 logits on a word that is in no context
    L0.H0, H1   subjects    an object looks two back: at A (of `x is A`) stands x, at B stands A; into subj1 (H0), subj2 (H1)
    L0.H2, H3   entity      the last word looks one back: x, into here1 (H2), here2 (H3)
  path 1, two hops at the last word:
    L1.H0       first hop   looks for subj1 = here1; copies the concept A into mid
    L2.H0       second hop  looks for subj1 = mid; copies the class B into ans1
    L4.H0       writer      looks at its own position; writes ans1 × 6 logits
  path 2, one hop where x was told to be A, the other at the end:
    L1.H1       hop         at A (of `x is A`), looks for subj2 = A; copies the class B into ans2
    L5.H1       writer      looks for subj2 = here2, so at A of `x is A`; writes its ans2 × 6 logits
    L1.H2       decoy       the pattern of L1.H0, no value
    the other heads         uniform attention, random values of scale 0.03

Each path alone outweighs the prior, so that the loss of one costs nothing and that of both gives the prior's word. Construction
of our own for E12 of the methods' specification (system: Dutta et al. 2024, How to think step-by-step).
"""

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

ENTITIES = ("Alex", "Blake", "Casey", "Drew", "Emery", "Fin", "Gray", "Jules")
CONCEPTS = ("dumpus", "grimpus", "impus", "jompus", "rompus", "tumpus", "wumpus", "yumpus")
CLASSES = ("bright", "cold", "fruity", "kind", "large", "opaque", "sour", "wooden")
PRIORS = ("good", "like", "nice", "well")
LINKS = ("feels", "looks", "seems", "stays")
WORDS = (*ENTITIES, *CONCEPTS, *CLASSES, *PRIORS, *LINKS, "is", ".")
N_LAYERS, N_HEADS, D_HEAD, N_POSITIONS = 8, 6, 32, 20
BETA = 14.0
GAIN = 10.0  # of the unembedding
PRIOR, ANSWER = 3.0, 6.0  # logits
OBJECTS = (3, 7, 11, 15)  # where the objects of the four statements stand
N_TOKENS = 19
HOST = "GPT2LMHeadModel, 8 layers, 6 heads, d_model 192, neutral LayerNorm"

STREAM = Layout.of(
    N_HEADS * D_HEAD,
    tok=len(WORDS),
    pos=N_POSITIONS,
    subj1=16,
    subj2=16,
    here1=8,
    here2=8,
    mid=8,
    ans1=8,
    ans2=8,
    out=len(CLASSES) + len(PRIORS),
    bos=1,
    balance=1,
)
_NAMED = Layout(
    STREAM.width,
    {
        **STREAM.blocks,
        "entity": slice(0, 8),
        "concept": slice(8, 16),
        "subject": slice(0, 16),
        "class": slice(16, 24),
        "concepts of subj1": slice(STREAM.at("subj1") + 8, STREAM.at("subj1") + 16),
        "concepts of subj2": slice(STREAM.at("subj2") + 8, STREAM.at("subj2") + 16),
    },
)
_LOOK = Layout.of(D_HEAD, word=16, sink=1)


def ontology(*, n_prompts: int = 96, rift: int = 4, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world; `rift` (3 to 6) is the layer of the first writer. The null twin has uniform heads and no neurons.

    `prompts`: `clean`; `noise` (the same form, other entities, concepts and classes, the same last word); answers of both.
    `truth`: `heads` by name with `role` and `path`; `paths` (heads of each); `writers`; `rift` (the block after which the lens
    gives context words), `horizon` (the first block at whose input the context may be replaced without loss); `context`
    (positions before the last full stop, and it), `priors` (the prior's word of every row); `accuracy`. Raises ValueError for
    another `rift`.
    """
    if not 3 <= rift <= N_LAYERS - 2:
        raise ValueError(f"rift is {rift}; the first writer stands in layer 3 to {N_LAYERS - 2}")
    generator = torch.Generator().manual_seed(seed)
    written = _heads(rift)
    model = _model(generator, {} if null else {name: head for name, (_, _, head) in written.items()})
    rows = [_row(i, generator) for i in range(n_prompts)]
    clean, noise, answer, noise_answer, prior = zip(*rows, strict=True)
    return PlantedWorld(
        name="ontology",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"clean": clean, "noise": noise},
        answers={"clean": answer, "noise": noise_answer},
        truth={"heads": {}, "context": list(range(17))} if null else _truth(written, rift, prior),
        null=null,
    )


def _truth(written: dict[str, tuple[str, int, Head]], rift: int, priors: tuple[str, ...]) -> dict[str, Any]:
    return {
        "heads": {name: {"role": role, "path": path} for name, (role, path, _) in written.items()},
        "paths": {str(p): [n for n, (_, path, _) in written.items() if path == p] for p in (1, 2)},
        "writers": [name for name, (role, _, _) in written.items() if role == "writer"],
        "rift": rift,
        "horizon": 3,
        "context": list(range(17)),
        "priors": list(priors),
        "accuracy": 1.0,
    }


def _heads(rift: int) -> dict[str, tuple[str, int, Head]]:
    """Name to role, path (0: none) and weights."""
    subjects, entity = {p: p - 2 for p in OBJECTS}, {N_TOKENS - 1: N_TOKENS - 2}
    first_hop = _matching("here1", "subj1", "concept", "mid")
    return {
        "L0.H0": ("subjects", 1, _positional(subjects, "subject", "subj1")),
        "L0.H1": ("subjects", 2, _positional(subjects, "subject", "subj2")),
        "L0.H2": ("entity", 1, _positional(entity, "entity", "here1")),
        "L0.H3": ("entity", 2, _positional(entity, "entity", "here2")),
        "L1.H0": ("hop", 1, first_hop),
        "L2.H0": ("hop", 1, _matching("mid", "concepts of subj1", "class", "ans1")),
        f"L{rift}.H0": ("writer", 1, _positional({N_TOKENS - 1: N_TOKENS - 1}, "ans1", "out", ANSWER / GAIN)),
        "L1.H1": ("hop", 2, _matching("concept", "concepts of subj2", "class", "ans2")),
        f"L{rift + 1}.H1": ("writer", 2, _matching("here2", "subj2", "ans2", "out", ANSWER / GAIN)),
        "L1.H2": ("decoy", 0, Head(q=first_hop.q, k=first_hop.k, q_bias=first_hop.q_bias)),
    }


def _positional(looks_at: dict[int, int], read: str, write: str, strength: float = 1.0) -> Head:
    """Positions look where `looks_at` says, all others at `<bos>`, which has nothing to copy."""
    at = Layout.of(D_HEAD, pos=N_POSITIONS)
    q = torch.zeros(STREAM.width, D_HEAD)
    for pos in range(N_POSITIONS):
        q[STREAM.at("pos", pos), at.at("pos", looks_at.get(pos, 0))] = BETA
    v, o = _NAMED.map(_LOOK, (read, "word")), _LOOK.map(_NAMED, ("word", write, strength))
    return Head(q=q, k=STREAM.map(at, ("pos", "pos")), v=v, o=o)


def _matching(query: str, key: str, read: str, write: str, strength: float = 1.0) -> Head:
    """Look for tokens whose block `key` holds what stands here in block `query`; `<bos>` is a sink at half the score."""
    return Head(
        q=BETA * _NAMED.map(_LOOK, (query, "word")),
        k=_NAMED.map(_LOOK, (key, "word"), ("bos", "sink", 0.5)),
        v=_NAMED.map(_LOOK, (read, "word")),
        o=_LOOK.map(_NAMED, ("word", write, strength)),
        q_bias=BETA * _LOOK.unit("sink"),
    )


def _model(generator: torch.Generator, written: dict[str, Head]) -> "PreTrainedModel":
    d_vocab = len(SPECIALS) + len(WORDS)
    model = empty_gpt2(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=len(LINKS), d_vocab=d_vocab, n_positions=N_POSITIONS
    )
    for layer in range(N_LAYERS):
        for head in range(N_HEADS):
            noise = uniform_head(STREAM, D_HEAD, generator)  # drawn for every head, so that twins share what is random
            set_head(model, layer, head, written.get(f"L{layer}.H{head}", noise))
    for i, link in enumerate(LINKS if written else ()):
        write = PRIOR / GAIN * STREAM.unit("out", len(CLASSES) + i)
        set_neuron(model, 0, i, Neuron(w_in=STREAM.unit("tok", WORDS.index(link)), w_out=write))
    embed, unembed = _vocabulary(d_vocab)
    positions = torch.stack([STREAM.unit("pos", i) for i in range(N_POSITIONS)])
    set_vocabulary(model, embed=embed, unembed=unembed, positions=positions)
    balance_writes(model, STREAM.at("balance"))
    return model


def _vocabulary(d_vocab: int) -> tuple[Tensor, Tensor]:
    embed, unembed = torch.zeros(2, d_vocab, STREAM.width)
    embed[1] = STREAM.unit("bos")
    for i, word in enumerate(WORDS):
        embed[len(SPECIALS) + i] = STREAM.unit("tok", i)
        if word in (*CLASSES, *PRIORS):
            unembed[len(SPECIALS) + i] = GAIN * STREAM.unit("out", (*CLASSES, *PRIORS).index(word))
    return embed, unembed


def _row(row: int, generator: torch.Generator) -> tuple[str, str, str, str, str]:
    """Clean text, noise text, their answers and the prior's word; the two texts share no entity, concept or class."""
    drawn = [torch.randperm(8, generator=generator)[:4].tolist() for _ in range(3)]
    flip_rules, flip_facts = torch.randint(0, 2, (2,), generator=generator).tolist()
    link = row % len(LINKS)
    texts, answers = [], []
    for half in (slice(0, 2), slice(2, 4)):
        entities, concepts, classes = (
            [words[i] for i in picked[half]] for words, picked in zip((ENTITIES, CONCEPTS, CLASSES), drawn, strict=True)
        )
        rules = [f"{a} is {b} ." for a, b in zip(concepts, classes, strict=True)]
        facts = [f"{x} is {a} ." for x, a in zip(entities, concepts, strict=True)]
        order = (rules[::-1] if flip_rules else rules) + (facts[::-1] if flip_facts else facts)
        texts.append(" ".join([*order, entities[0], LINKS[link]]))
        answers.append(classes[0])
    return texts[0], texts[1], answers[0], answers[1], PRIORS[link]
