"""Gated neurons of every input-output class in a random Llama: what they detect, what they multiply by, and what they write.

Host: LlamaForCausalLM, 2 layers, d_model 128, d_mlp 300, weights N(0, 0.03²), ordinary norms with random gains (0.5 to 1.5), so
that classes are right only with the gains folded in. `EACH` neurons of each of five classes are written over random ones: with a
random unit direction r, cosines are `COSINE` or 0 to within what the mixing noise leaves. Construction after C6 of the methods'
specification.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import Neuron, empty_llama, set_neuron
from conceptlab.worlds.word_tokenizer import SPECIALS, word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

N_LAYERS, N_HEADS, D_HEAD, D_MLP, EACH, COSINE = 2, 4, 32, 300, 16, 0.9
D_MODEL, N_POSITIONS = N_HEADS * D_HEAD, 16
WORDS = tuple(f"word{i}" for i in range(60))
# what stands at cosine COSINE (or its negative) to what the up projection reads: gate, out; and out to gate
KINDS = {
    "enrichment": (1, 1),
    "conditional enrichment": (0, 1),
    "proportional change": (0, 0),
    "conditional depletion": (0, -1),
    "depletion": (1, -1),
}


def gated_classes(*, seed: int = 0, null: bool = False) -> PlantedWorld:
    """Build the world. `truth`: `classes`, the class of every planted neuron by its name (L0.N17). The null twin has none."""
    generator = torch.Generator().manual_seed(seed)
    model = empty_llama(
        n_layers=N_LAYERS, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=D_MLP, d_vocab=len(SPECIALS) + len(WORDS),
        n_positions=N_POSITIONS, neutral=False,
    )  # fmt: skip
    with torch.no_grad():
        for weight in model.parameters():
            random = torch.randn(weight.shape, generator=generator)
            weight.copy_(0.03 * random if weight.ndim == 2 else 0.5 + torch.rand(weight.shape, generator=generator))
    places = torch.randperm(N_LAYERS * D_MLP, generator=generator)[: len(KINDS) * EACH].tolist()
    classes = {} if null else _plant(model, places, generator)
    words = [WORDS[i] for i in torch.randint(len(WORDS), (8 * 6,), generator=generator).tolist()]
    return PlantedWorld(
        name="gated_classes",
        host="LlamaForCausalLM, 2 layers, d_model 128, d_mlp 300, random, gains 0.5 to 1.5",
        model=model,
        tokenizer=word_tokenizer(WORDS, N_POSITIONS),
        prompts={"plain": tuple(" ".join(words[6 * i : 6 * i + 6]) for i in range(8))},
        truth={"classes": classes},
        null=null,
    )


def _plant(model: "PreTrainedModel", places: list[int], generator: torch.Generator) -> dict[str, str]:
    classes = {}
    for number, place in enumerate(places):
        kind = list(KINDS)[number // EACH]
        layer, index = divmod(place, D_MLP)
        gate, up, out = _triple(kind, generator)
        gain = model.get_parameter(f"model.layers.{layer}.post_attention_layernorm.weight").detach()
        set_neuron(model, layer, index, Neuron(w_in=up / gain, w_out=out, w_gate=gate / gain))
        classes[f"L{layer}.N{index}"] = kind
    return classes


def _triple(kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, up and out as read from and written to the stream."""
    up = _random(generator)
    to_gate, to_out = KINDS[kind]
    gate = _near(up, to_gate, generator)
    source = gate if kind == "proportional change" else up
    return gate, up, _near(source, to_out or 1, generator)


def _near(direction: Tensor, sign: int, generator: torch.Generator) -> Tensor:
    """A unit vector at cosine sign x COSINE to a unit direction (0: orthogonal to it)."""
    other = _random(generator)
    other = torch.nn.functional.normalize(other - other @ direction * direction, dim=0)
    return other if sign == 0 else sign * COSINE * direction + (1 - COSINE**2) ** 0.5 * other


def _random(generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(D_MODEL, generator=generator), dim=0)
