"""Planted neurons in a small random Llama: each fires on two known words and writes the unembedding of one known word.

Host: LlamaForCausalLM, 3 layers, 4 heads on 2 key/value heads, d_model 64, d_mlp 128, 101 tokens, ordinary RMSNorm
(gain 1) and rotary positions; weights N(0, 0.03²), embedding N(0, 1/64), unembedding N(0, 2.25/64). The norm is not
neutral here: firing and effect are measured, not derived.

Twenty orthonormal directions are kept out of all embeddings; neuron j's two trigger words get direction j. The neuron
has w_gate = 2 × its direction, w_in = the same direction scaled so that the neuron is about 1 on a trigger in layer 0,
and w_out = c × U[t] for its own target word t. Construction after FX-NEUR of the methods' specification.
"""

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.data import Concept, ConceptSet
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import Neuron, empty_llama, random_rotation, set_neuron
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

N_NEURONS = 20
N_LAYERS, N_HEADS, D_HEAD, D_MLP = 3, 4, 16, 128
D_MODEL = N_HEADS * D_HEAD
N_POSITIONS = 64
STRENGTH = 1.0  # c in w_out = c U[t]
# made-up words: 40 triggers (two a neuron), 20 targets (one a neuron), 38 fillers
WORDS = tuple("".join(parts) for parts in product("bdgklmt", "aeiou", ("ran", "sol", "vin")))[: 101 - len(SPECIALS)]
TRIGGERS, TARGETS, FILLERS = WORDS[: 2 * N_NEURONS], WORDS[2 * N_NEURONS : 3 * N_NEURONS], WORDS[3 * N_NEURONS :]
HOST = "LlamaForCausalLM, 3 layers, 4 heads on 2 key/value heads, d_model 64, d_mlp 128, random, ordinary RMSNorm"


@dataclass(frozen=True)
class _Place:
    layer: int
    index: int
    triggers: tuple[str, str]
    target: str

    @property
    def name(self) -> str:
        return f"L{self.layer}.N{self.index}"


def planted_neurons(*, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. The null twin is the random host with none of the twenty directions and neurons.

    `concepts` has one binary concept a neuron, named after it: does the text end in one of its triggers. `prompts` are
    `plain` (texts that end in a filler) and one family a neuron (texts that end in its triggers; the answer is its
    target). `truth`: `neurons` by name, each with `triggers`, `token` (what it writes), `reads` (unit direction
    [d_model]), `strength` (c); `fires` (least activation on a trigger) and `silent` (greatest |activation| at the end of
    any other text) of any of them, so their `auroc`; `clamped` (mean probability of the target after `plain`, with the
    neuron clamped at the last word to 0, 1 and 2), `clamped_random` (the same at 2 for unplanted neurons whose outputs
    are given the same norm; a single one reached 0.115); `accuracy` of the targets after triggers.
    """
    generator = torch.Generator().manual_seed(seed)
    model = _random_llama(generator)
    directions = random_rotation(D_MODEL, generator)[:N_NEURONS]
    places = _places(generator)
    if not null:
        _plant(model, directions, places)
    prompts = _prompts(places, generator)
    truth = {"neurons": {}} if null else _truth(directions, places)
    return PlantedWorld(
        name="planted_neurons",
        host=HOST,
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts=prompts,
        answers={place.name: (place.target,) * len(prompts[place.name]) for place in places},
        concepts=_concepts(prompts, places),
        truth=truth,
        null=null,
    )


@torch.no_grad()
def _random_llama(generator: torch.Generator) -> "PreTrainedModel":
    model = empty_llama(
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        d_head=D_HEAD,
        d_mlp=D_MLP,
        d_vocab=len(SPECIALS) + len(WORDS),
        n_positions=N_POSITIONS,
        neutral=False,
    )
    scales = {"model.embed_tokens.weight": D_MODEL**-0.5, "lm_head.weight": 1.5 * D_MODEL**-0.5}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            parameter.copy_(scales.get(name, 0.03) * torch.randn(parameter.shape, generator=generator))
    return model


def _places(generator: torch.Generator) -> list[_Place]:
    index = torch.stack([torch.randperm(D_MLP, generator=generator) for _ in range(N_LAYERS)])
    return [
        _Place(j % N_LAYERS, int(index[j % N_LAYERS, j]), (TRIGGERS[2 * j], TRIGGERS[2 * j + 1]), TARGETS[j])
        for j in range(N_NEURONS)
    ]


@torch.no_grad()
def _plant(model: "PreTrainedModel", directions: Tensor, places: list[_Place]) -> None:
    embed, unembed = model.get_parameter("model.embed_tokens.weight"), model.get_parameter("lm_head.weight")
    embed -= embed @ directions.T @ directions
    # the normed stream of a trigger has about this component along its direction, before anything is added to it
    expected = D_MODEL**0.5 / (1 + (D_MODEL - N_NEURONS) / D_MODEL) ** 0.5
    for direction, place in zip(directions, places, strict=True):
        for word in place.triggers:
            embed[_token(word)] += direction
        w_gate, w_in = 2 * direction, direction / (2 * expected**2)
        w_out = STRENGTH * unembed[_token(place.target)]
        set_neuron(model, place.layer, place.index, Neuron(w_in=w_in, w_out=w_out, w_gate=w_gate))


def _token(word: str) -> int:
    return len(SPECIALS) + WORDS.index(word)


def _prompts(places: list[_Place], generator: torch.Generator) -> dict[str, tuple[str, ...]]:
    def text(last: str | None) -> str:
        n = int(torch.randint(4, 9, (1,), generator=generator))
        words = [FILLERS[i] for i in torch.randperm(len(FILLERS), generator=generator)[:n].tolist()]
        return " ".join(words if last is None else [*words, last])

    fired = {place.name: tuple(text(place.triggers[i % 2]) for i in range(16)) for place in places}
    return {"plain": tuple(text(None) for _ in range(64)), **fired}


def _concepts(prompts: dict[str, tuple[str, ...]], places: list[_Place]) -> ConceptSet:
    concepts = []
    for j, place in enumerate(places):
        # as many negatives: plain texts, and texts that end in the triggers of the next eight neurons
        others = [prompts[places[(j + i) % len(places)].name][j % 16] for i in range(1, 9)]
        texts = (*prompts[place.name], *prompts["plain"][:8], *others)
        labels = np.array([1] * 16 + [0] * 16, dtype=np.int64)
        concepts.append(Concept(place.name, texts, labels, "binary", ("other", "trigger")))
    return ConceptSet("planted_neurons", tuple(concepts))


def _truth(directions: Tensor, places: list[_Place]) -> dict[str, Any]:
    neurons = {
        place.name: {
            "triggers": list(place.triggers),
            "token": place.target,
            "reads": direction.tolist(),
            "strength": STRENGTH,
        }
        for direction, place in zip(directions, places, strict=True)
    }
    # measured here in float32 over seeds 0, 1 and 2: means over the twenty neurons, or their least and greatest
    return {
        "neurons": neurons,
        "fires": 0.70,
        "silent": 0.21,
        "auroc": 1.0,
        "clamped": {"0": 0.0098, "1": 0.982, "2": 0.995},
        "clamped_random": 0.012,
        "accuracy": 1.0,
        "tolerance": {"clamped": 0.01, "clamped_random": 0.01},
    }
