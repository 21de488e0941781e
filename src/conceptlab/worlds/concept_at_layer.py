"""A binary concept that becomes readable at a chosen layer and is used, beside one that is readable and not used.

Host: LlamaForCausalLM, by default 6 layers × 8 heads, d_model 64 (d_head 8), d_mlp 64, neutral RMSNorm, rotary base 1e8
(see `weights_by_hand`); the whole stream is turned by a random rotation, so no coordinate is special.

A text is fillers with one word of each of four families (colour, animal, tool, weather) among them, and ends in `, so`.
Each family has two classes of four words. The concept `used` is whether colour and animal are of different classes,
`unused` the same of tool and weather: neither is a linear function of the words. What is planted:

    layer 0        heads 0-3 carry the class (±1) of colour, animal, tool, weather from its word to the place of work;
                   at every other place they rest on `<bos>`
    the XOR        two gated neurons a concept: silu(16 a) · b + silu(-16 a) · (-b) = 16 a b, so -a b is written, ±1
    by neurons     the place of work is the last word, `so`; the neurons of layer `appears_at` write the concept there
    by a head      the place of work is `,`; the neurons of layer `appears_at` - 1 write there, and head 0 (`used`) or
                   1 (`unused`) of layer `appears_at` moves it to the last word
    unembedding    `yes` and `indeed` read +6 and +5 × the direction of `used`, `no` and `never` -6 and -5 ×; nothing
                   reads `unused`

All else is random: the other heads and neurons read and write a background subspace only. In it a word and its twin of
the other class are the same vector, so that the background knows nothing about any label.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.data import Concept, ConceptSet
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import (
    Head,
    Layout,
    Neuron,
    empty_llama,
    random_rotation,
    rotate_stream,
    set_head,
    set_neuron,
    set_vocabulary,
)
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# family -> its two classes; words at the same place of the two are twins
FAMILIES = {
    "colour": (("red", "orange", "amber", "pink"), ("blue", "green", "teal", "violet")),
    "animal": (("cat", "dog", "hen", "goat"), ("wolf", "hawk", "lynx", "otter")),
    "tool": (("hammer", "saw", "axe", "drill"), ("spoon", "cup", "bowl", "plate")),
    "weather": (("rain", "storm", "fog", "snow"), ("sun", "breeze", "heat", "calm")),
}
# fmt: off
FILLERS = (
    "the", "a", "one", "near", "by", "with", "under", "over", "old", "new",
    "big", "small", "and", "then", "while", "here", "there", "again", "also", "often",
)
# fmt: on
LABEL_WORDS = (("no", "never"), ("yes", "indeed"))
KEY_WORDS = tuple(word for classes in FAMILIES.values() for words in classes for word in words)
WORDS = (*KEY_WORDS, *FILLERS, *LABEL_WORDS[0], *LABEL_WORDS[1], ",", "so")
CONCEPTS = {"used": (0, 1), "unused": (2, 3)}  # concept -> its two families

N_HEADS, D_HEAD, D_MLP, N_POSITIONS = 8, 8, 64, 32
BETA, KAPPA = 16.0, 16.0
READ = (6.0, 5.0)  # how strongly the first and the second label word of a class read the concept
STREAM = Layout.of(N_HEADS * D_HEAD, flag=4, sign=4, gathered=4, always=1, bos=1, comma=1, end=1, relay=2, concept=2)
# the last two rotary pairs of a head turn least; a head is read through the first half of each
_PAIRS = Layout(D_HEAD, {"value": slice(0, 1), "rest": slice(2, 3), "match": slice(3, 4)})


@dataclass(frozen=True)
class _Plan:
    """Where the parts go: the layer and the two neurons of each concept's XOR, and the layer of its moving head."""

    writer: str
    appears_at: dict[str, int]
    neurons: dict[str, tuple[int, int]]

    @property
    def work(self) -> str:
        return "end" if self.writer == "neurons" else "comma"

    def neuron_layer(self, concept: str) -> int:
        return self.appears_at[concept] - (self.writer == "head")

    def heads(self, concept: str) -> dict[str, dict[str, str]]:
        gather = {f"L0.H{family}": {"role": "gather"} for family in CONCEPTS[concept]}
        mover = {f"L{self.appears_at[concept]}.H{_mover(concept)}": {"role": "move"}}
        return {**gather, **(mover if self.writer == "head" else {})}


def concept_at_layer(
    *,
    appears_at: int = 3,
    unused_at: int | None = None,
    n_layers: int = 6,
    writer: Literal["neurons", "head"] = "neurons",
    n_texts: int = 480,
    seed: int = 0,
    null: bool = False,
) -> PlantedWorld:
    """Build the world; `unused_at` (default: the same layer) is where the decoy concept appears.

    The null twin keeps words, fillers and background and has no gathering heads, no XOR and no mover. `concepts` are
    `used` and `unused` over the same texts, balanced jointly. `truth`: `concepts` by name, each with `appears_at` (the
    first layer whose `resid_post` at the last word tells the label: linear accuracy 1, and 0.5 before), `direction` (unit
    [d_model]; the label 1 is on its positive side), `coordinate` (its value there, ±), the `neurons` and `heads` that make
    it, each with its `role`, and `log_odds` (of the label words, see `metric`) unchanged, with the direction projected out
    or reversed, and with one of its heads or one of its neurons at 0; `accuracy`; `tolerance`. The numbers follow from
    the construction. Raises ValueError when a layer does not fit.
    """
    layers = {"used": appears_at, "unused": appears_at if unused_at is None else unused_at}
    lowest = 1 if writer == "head" else 0
    if not all(lowest <= layer < n_layers for layer in layers.values()):
        raise ValueError(f"a concept written by {writer} appears at a layer from {lowest} to {n_layers - 1}")
    generator = torch.Generator().manual_seed(seed)
    free = torch.randperm(D_MLP, generator=generator)[:4].tolist()
    plan = _Plan(writer, layers, {"used": (free[0], free[1]), "unused": (free[2], free[3])})
    model = _background(n_layers, generator)
    if not null:
        _plant(model, plan)
    rotation = random_rotation(STREAM.width, generator)
    rotate_stream(model, rotation)
    concepts = _concepts(n_texts, generator)
    texts, labels = concepts["used"].texts, concepts["used"].labels
    return PlantedWorld(
        name=f"concept_at_layer_{appears_at}_by_{writer}",
        host=f"LlamaForCausalLM, {n_layers} layers, 8 heads, d_model 64, d_mlp 64, neutral RMSNorm, rotated stream",
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"clean": texts},
        answers={"clean": tuple(LABEL_WORDS[label][0] for label in labels)},
        concepts=concepts,
        truth={"concepts": {}} if null else _truth(plan, rotation),
        null=null,
    )


def _background(n_layers: int, generator: torch.Generator) -> "PreTrainedModel":
    model = empty_llama(
        n_layers=n_layers,
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_mlp=D_MLP,
        d_vocab=len(SPECIALS) + len(WORDS),
        n_positions=N_POSITIONS,
    )
    inside = torch.zeros(STREAM.width)
    inside[STREAM.blocks["rest"]] = STREAM.size("rest") ** -0.5

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, STREAM.width, generator=generator) * inside

    for layer in range(n_layers):
        for head in range(N_HEADS):
            q, k, v, o = (noise(D_HEAD) for _ in range(4))
            set_head(model, layer, head, Head(q=q.T, k=k.T, v=v.T, o=0.7 * o))
        for neuron in range(D_MLP):
            w_gate, w_in, w_out = noise(3)
            set_neuron(model, layer, neuron, Neuron(w_gate=w_gate, w_in=w_in, w_out=0.2 * w_out))
    set_vocabulary(model, embed=_embedding(noise), unembed=_unembedding(noise))
    return model


def _embedding(noise: Callable[[int], Tensor]) -> Tensor:
    embed = noise(len(SPECIALS) + len(WORDS))
    embed[:, STREAM.at("always")] = 1.0
    for family, (first, second) in enumerate(FAMILIES.values()):
        for one, twin in zip(first, second, strict=True):
            embed[_token(twin)] = embed[_token(one)]
            for word, sign in ((one, -1.0), (twin, 1.0)):
                embed[_token(word)] += STREAM.unit("flag", family) + sign * STREAM.unit("sign", family)
    for token, block in ((1, "bos"), (_token(","), "comma"), (_token("so"), "end")):
        embed[token] += STREAM.unit(block)
    return embed


def _unembedding(noise: Callable[[int], Tensor]) -> Tensor:
    unembed = noise(len(SPECIALS) + len(WORDS))
    for words, sign in zip(LABEL_WORDS, (-1.0, 1.0), strict=True):
        for word, strength in zip(words, READ, strict=True):
            unembed[_token(word)] = sign * strength * STREAM.unit("concept")
    return unembed


def _token(word: str) -> int:
    return len(SPECIALS) + WORDS.index(word)


def _mover(concept: str) -> int:
    return list(CONCEPTS).index(concept)


def _plant(model: "PreTrainedModel", plan: _Plan) -> None:
    for family in range(len(FAMILIES)):
        set_head(model, 0, family, _carry(plan.work, ("flag", family), ("sign", family), ("gathered", family)))
    for concept, families in CONCEPTS.items():
        i = _mover(concept)
        written = STREAM.unit("concept" if plan.writer == "neurons" else "relay", i)
        a, b = (STREAM.unit("gathered", family) for family in families)
        for neuron, sign in zip(plan.neurons[concept], (1.0, -1.0), strict=True):
            weights = Neuron(w_gate=sign * KAPPA * a, w_in=sign * b, w_out=-written / KAPPA)
            set_neuron(model, plan.neuron_layer(concept), neuron, weights)
        if plan.writer == "head":
            mover = _carry("end", ("comma", 0), ("relay", i), ("concept", i))
            set_head(model, plan.appears_at[concept], i, mover)


def _carry(place: str, key: tuple[str, int], source: tuple[str, int], target: tuple[str, int]) -> Head:
    """At tokens with the flag `place`, look for `key` and carry `source` to `target`; elsewhere rest on `<bos>`."""
    here, always = STREAM.unit(place), STREAM.unit("always")
    match, rest, value = (_PAIRS.unit(name) for name in ("match", "rest", "value"))
    return Head(
        q=BETA * (torch.outer(here, match) + torch.outer(always - here, rest)),
        k=torch.outer(STREAM.unit(*key), match) + torch.outer(STREAM.unit("bos"), rest),
        v=torch.outer(STREAM.unit(*source), value),
        o=torch.outer(value, STREAM.unit(*target)),
    )


def _concepts(n_texts: int, generator: torch.Generator) -> ConceptSet:
    texts: dict[str, tuple[int, ...]] = {}
    while len(texts) < n_texts:
        # all sixteen combinations of classes in turn
        classes = [len(texts) >> family & 1 for family in range(len(FAMILIES))]
        texts.setdefault(_text(classes, generator), tuple(classes))
    signs = np.array(list(texts.values()))
    return ConceptSet(
        "concept_at_layer",
        tuple(
            Concept(
                name=name,
                texts=tuple(texts),
                labels=(signs[:, first] ^ signs[:, second]).astype(np.int64),
                kind="binary",
                class_names=("same", "different"),
                words=LABEL_WORDS,
            )
            for name, (first, second) in CONCEPTS.items()
        ),
    )


def _text(classes: Sequence[int], generator: torch.Generator) -> str:
    def draw(words: Sequence[str], n: int) -> list[str]:
        return [words[int(i)] for i in torch.randint(0, len(words), (n,), generator=generator).tolist()]

    n_fillers = int(torch.randint(4, 11, (1,), generator=generator))
    words = draw(FILLERS, n_fillers)
    for family, group in zip(FAMILIES.values(), classes, strict=True):
        words += draw(family[group], 1)
    order = torch.randperm(len(words), generator=generator).tolist()
    return " ".join([*(words[i] for i in order), ",", "so"])


def _truth(plan: _Plan, rotation: Tensor) -> dict[str, Any]:
    concepts = {}
    for concept in CONCEPTS:
        direction = STREAM.unit("concept", _mover(concept)) @ rotation
        layer = plan.neuron_layer(concept)
        concepts[concept] = {
            "appears_at": plan.appears_at[concept],
            "direction": direction.tolist(),
            "coordinate": 1.0,
            "neurons": {f"L{layer}.N{n}": {"role": "xor", "auroc": 0.125} for n in plan.neurons[concept]},
            "heads": plan.heads(concept),
            "log_odds": _log_odds(concept),
        }
    return {
        "metric": "mean log-odds of the right label words against the wrong ones, last word",
        "concepts": concepts,
        "accuracy": 1.0,
        "tolerance": {"log_odds": 0.01, "coordinate": 0.001},
    }


def _log_odds(concept: str) -> dict[str, float]:
    # both concepts are judged by the words that read `used`: log(e^6 + e^5) - log(e^-6 + e^-5) = 11
    unchanged = 11.0
    if concept == "unused":
        return dict.fromkeys(("unchanged", "projected_out", "reversed", "head_ablated", "neuron_ablated"), unchanged)
    # without one of the two neurons half of the texts lose the concept
    return {
        "unchanged": unchanged,
        "projected_out": 0.0,
        "reversed": -unchanged,
        "head_ablated": 0.0,
        "neuron_ablated": unchanged / 2,
    }
