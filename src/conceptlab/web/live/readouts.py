"""What the stream says of concepts at every token of a prompt: its projection on their directions, in the atlas's own unit.

A value of +1 is where the atlas found the mean of the second class, -1 the first (a graded concept or one without class means
counts in standard deviations over the prompt). The direction belongs to the concept's best layer; at other layers it is read as it
is. Control: `DRAWS` random directions of the same norm, read in the same unit; the first is shown, 95 % of them bound the others.
Cost: nothing beside the kept pass (layers x tokens x d_model products a concept).
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.results import Subspace
from conceptlab.web.jobs import Said
from conceptlab.web.live.one_pass import Prompt, loaded, one_pass, read_prompt

if TYPE_CHECKING:
    from conceptlab.model import Model

DRAWS = 100
WITHIN = 0.95


@dataclass(frozen=True, eq=False)
class Direction:
    """One concept to read: its id and name, the layer axis' place its direction belongs to (0: embedding), and the direction."""

    id: str
    name: str
    at: int
    subspace: Subspace


@dataclass(frozen=True, eq=False)
class Readouts:
    """`each` [concept, token] at every concept's own layer; of the chosen concept `by_layer` [layer, token], and beside it one
    random direction `random` [layer, token] and the bound `bound` [layer, token] that 95 % of random directions stay under (in
    size).

    `unit` says what 1 means. Without concepts all are empty.
    """

    prompt: Prompt
    layers: tuple[str, ...]
    concepts: tuple[Direction, ...]
    chosen: int
    each: np.ndarray
    by_layer: np.ndarray
    random: np.ndarray
    bound: np.ndarray
    unit: str


def readouts(
    live: Any, text: str, directions: Sequence[Direction] = (), chosen: str = ""
) -> Generator[Said, None, Readouts]:
    """Project the prompt's stream on the directions; `chosen` is the id of the one that is read at every layer (default: the
    first).

    Raises InputError for a prompt that does not fit, or directions of another width than the model's.
    """
    model = yield from loaded(live)
    prompt = read_prompt(model, text)
    layers = ("embed", *map(str, range(model.n_layers)))
    if not directions:
        none = np.zeros((0, len(prompt)), dtype=np.float32)
        return Readouts(prompt, layers, (), -1, none, none, none, none, "")
    check_width(model, directions)
    for d in directions:
        d.subspace.check_exists()
    yield Said(0.1, f"one pass of {len(prompt)} tokens")
    streams = one_pass(model, prompt).streams[:, 0].float().cpu()
    yield Said(0.8, f"{len(directions)} concepts")
    at = next((i for i, d in enumerate(directions) if d.id == chosen), 0)
    each = np.stack([projected(streams[d.at], d.subspace, d.subspace.vector[None])[0][0].numpy() for d in directions])
    subspace = directions[at].subspace
    vectors = torch.cat([subspace.vector[None].float(), random_directions(model.d_model)])
    values, unit = projected(streams, subspace, vectors)
    random = values[1:].abs()
    bound = random.sort(0).values[int(np.ceil(WITHIN * DRAWS)) - 1]
    return Readouts(
        prompt, layers, tuple(directions), at, each, values[0].numpy(), values[1].numpy(), bound.numpy(), unit
    )


def check_width(model: "Model", directions: Sequence[Direction]) -> None:
    """Raise InputError where a direction is not as wide as the stream, or belongs to no layer of the model."""
    for d in directions:
        width = d.subspace.basis.shape[1]
        if width != model.d_model or not 0 <= d.at <= model.n_layers:
            raise InputError(
                f"the atlas's directions are {width} wide and the stream of {model.name} {model.d_model}; "
                "open the atlas of this model"
            )


def projected(streams: Tensor, subspace: Subspace, vectors: Tensor) -> tuple[Tensor, str]:
    """Projections [vector, ..., token] of streams [..., token, d_model] in the atlas's unit, and what the unit is."""
    points = subspace.class_points[:, 0].float() if subspace.class_points.numel() else torch.zeros(0)
    raw = torch.einsum("...d,vd->v...", streams - subspace.mean.float(), vectors.float())
    half = float(points.max() - points.min()) / 2 if len(points) else 0.0
    if half > 1e-12:
        middle = float(points.max() + points.min()) / 2
        shifted = raw - middle if len(vectors) == 1 else torch.cat([raw[:1] - middle, raw[1:]])
        low, high = (subspace.class_names[int(i)] for i in (points.argmin(), points.argmax()))
        return shifted / half, f"+1 is the atlas's mean of {high!r}, −1 that of {low!r}"
    spread = raw[0].std(-1, correction=0, keepdim=True).clamp_min(1e-12)
    return raw / spread, "1 is a standard deviation over the prompt, since the atlas has no class means here"


def random_directions(width: int) -> Tensor:
    """Unit vectors [draw, d_model], always the same."""
    drawn = torch.randn(DRAWS, width, generator=torch.Generator().manual_seed(0))
    return drawn / drawn.norm(dim=1, keepdim=True)
