"""Pictures as soft tokens before a frozen text model, some of whose neurons turn what is in them into words.

Host: that of `planted_neurons`, with its neurons of the first two layers, and one more head: L2.H0 attends evenly and carries
what the neurons write (the span of their words' unembeddings) to the last position. A picture is a grid of 4 x 4 patches; a
patch of the object holds the direction that the neuron of its shape reads, all patches hold noise outside those directions. No
patch holds a word: what a soft token decodes to has nothing to do with the shape, the neurons translate. The texts are fillers
behind sixteen placeholders. The null twin has pictures and no neurons. Construction after C8 of the methods' specification.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.worlds.planted_neurons import D_HEAD, D_MODEL, FILLERS, planted_neurons
from conceptlab.worlds.weights_by_hand import Head, set_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

GRID, CARRIED, N_TEXT = 4, 12.0, 3
N_PATCHES = GRID * GRID


@dataclass(frozen=True, eq=False)
class ShapeCaptions:
    """`soft` [picture, patch, d_model] goes in at positions `places` of `texts`; `nouns` and `objects` [picture, patch] are true.

    `neurons` maps a noun to the neuron that writes it ("L1.N7"); `others` are pictures whose object is a direction that
    nothing reads.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    texts: tuple[str, ...]
    soft: Tensor
    others: Tensor
    places: tuple[int, ...]
    nouns: tuple[str, ...]
    objects: np.ndarray
    neurons: dict[str, str]


def shape_captions(*, n_pictures: int = 24, seed: int = 0, null: bool = False) -> ShapeCaptions:
    """Build the world."""
    whole, world = planted_neurons(seed=seed), planted_neurons(seed=seed, null=null)
    shapes = {n: v for n, v in whole.truth["neurons"].items() if n.startswith(("L0", "L1"))}
    vocabulary = world.tokenizer.get_vocab()
    _reader(world.model, [vocabulary[v["token"]] for v in shapes.values()])
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    reads = torch.stack([torch.tensor(v["reads"]) for v in whole.truth["neurons"].values()])
    names = [list(shapes)[i % len(shapes)] for i in rng.permutation(n_pictures)]
    objects = np.stack([_object(rng) for _ in names])
    noise = torch.randn(2, n_pictures, N_PATCHES, D_MODEL, generator=generator) * D_MODEL**-0.5
    noise = noise - noise @ reads.T @ reads
    strange = torch.randn(n_pictures, D_MODEL, generator=generator)
    strange = strange - strange @ reads.T @ reads
    of = torch.stack([torch.tensor(shapes[name]["reads"]) for name in names])
    mask = torch.from_numpy(objects)[..., None].float()
    soft, others = (
        n + mask * d[:, None] for n, d in zip(noise, (of, strange / strange.norm(dim=1, keepdim=True)), strict=True)
    )
    texts = [
        " ".join([FILLERS[0]] * N_PATCHES + rng.choice(FILLERS[1:], N_TEXT, replace=False).tolist()) for _ in names
    ]
    return ShapeCaptions(
        world.model, world.tokenizer, tuple(texts), soft, others, tuple(range(1, 1 + N_PATCHES)),
        tuple(shapes[name]["token"] for name in names), objects, {v["token"]: n for n, v in shapes.items()},
    )  # fmt: skip


def _object(rng: np.random.Generator) -> np.ndarray:
    """A rectangle of 2 x 2 to 2 x 3 patches, [patch]."""
    grid = np.zeros((GRID, GRID), dtype=bool)
    height, width = (2, int(rng.integers(2, 4)))[:: int(rng.choice([1, -1]))]
    top, left = int(rng.integers(GRID - height + 1)), int(rng.integers(GRID - width + 1))
    grid[top : top + height, left : left + width] = True
    return grid.reshape(-1)


@torch.no_grad()
def _reader(model: "PreTrainedModel", tokens: list[int]) -> None:
    """L2.H0 attends evenly and copies the span of the tokens' unembeddings, as much of it as a head is wide."""
    rows = model.get_parameter("lm_head.weight")[tokens]
    basis = torch.zeros(D_HEAD, D_MODEL)
    basis[: len(rows)] = torch.linalg.svd(rows, full_matrices=False).Vh[:D_HEAD]
    set_head(model, 2, 0, Head(v=basis.T, o=CARRIED * basis))
