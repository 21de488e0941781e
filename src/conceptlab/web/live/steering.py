"""What is pushed, by how much, and what stands beside it: the settings of a steered text as edits with a sentence.

A direction is added to the stream at every token (Turner et al. 2023; Rimsky et al. 2024), a neuron is clamped to a value, a head's
output is rescaled. The random column does the same with a random direction of the same norm, another neuron of the layer or another
head of the layer. A strength is a multiple of a length that is measured or comes with the atlas, and that is said.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.model import Model
from conceptlab.results import Edit, Site, Subspace
from conceptlab.results.direction import TINY

Kind = Literal["direction", "neuron", "head"]
Scale = Literal["norm", "class"]
KINDS: tuple[Kind, ...] = ("direction", "neuron", "head")
SCALES: tuple[Scale, ...] = ("norm", "class")


@dataclass(frozen=True)
class Steering:
    """What was asked. `layer` None is the layer of the direction; `unit` numbers the neuron or head; `towards` the class that a
    direction points to; `scale` says what a strength of 1 is: "norm", the stream's mean norm at that place over the prompt, or
    "class", the distance of that class from the mean of the others. `draw` numbers the random control."""

    kind: Kind = "direction"
    concept: str = ""
    towards: int = 1
    layer: int | None = None
    unit: int = 0
    strength: float = 0.5
    scale: Scale = "norm"
    prompt: str = ""
    n_new: int = 24
    temperature: float = 0.0
    seed: int = 0
    draw: int = 0


@dataclass(frozen=True, eq=False)
class Readout:
    """How much of a concept a stream holds: its place along `vector` [d_model] (a unit vector) from `mean`, in multiples of
    `length`. `unit` says what 1 is."""

    site: Site
    vector: Tensor
    mean: Tensor
    length: float
    unit: str

    def of(self, stream: Tensor) -> Tensor:
        """[...] of streams [..., d_model]."""
        return (stream.float() - self.mean.to(stream).float()) @ self.vector.to(stream).float() / self.length


@dataclass(frozen=True, eq=False)
class Push:
    """Edits of the steered and of the random column, what they do in a sentence each, and the length of a strength of 1."""

    edits: tuple[Edit, Edit]
    says: tuple[str, str]
    unit: float
    unit_says: str


def readout_of(subspace: Subspace, towards: int) -> Readout:
    """The place between the classes: 0 is the mean of the labelled texts, 1 the distance of the class from the others' mean.

    Raises ResultError where the concept has no direction there.
    """
    subspace.check_exists()
    points = subspace.class_points.float()
    if len(points) < 2:
        return Readout(subspace.site, subspace.vector.float(), subspace.mean, 1.0, "length along the direction")
    toward = _pointing(subspace, towards)
    name = subspace.class_names[towards]
    return Readout(
        subspace.site, toward / toward.norm(), subspace.mean, float(toward.norm()), f"distance of {name} from the rest"
    )


def _pointing(subspace: Subspace, towards: int) -> Tensor:
    """From the mean of the other classes to this one, [d_model]. Raises InputError for a class that is not there."""
    points = subspace.class_points.float()
    if not 0 <= towards < len(points):
        raise InputError(f"{subspace.concept} has the classes 0 to {len(points) - 1}; {towards} was asked")
    others = [i for i in range(len(points)) if i != towards]
    pointing = (points[towards] - points[others].mean(0)) @ subspace.basis.float()
    if not pointing.norm() > TINY:
        raise InputError(
            f"{subspace.class_names[towards]!r} lies where the other classes lie on average, so nothing points to it"
        )
    return pointing


def push_of(model: Model, asked: Steering, subspace: Subspace | None) -> Push:
    """The edits. Cost: one forward of the prompt. Raises InputError and SiteError for what this model does not have."""
    if asked.kind == "direction":
        return _direction(model, asked, subspace)
    site = {"neuron": "mlp_post", "head": "z"}[asked.kind]
    layer = 0 if asked.layer is None else asked.layer
    tap = model.tap(site, layer)
    size = (tap.heads if asked.kind == "head" else tap.width) or 0
    if not 0 <= asked.unit < size:
        raise InputError(f"layer {layer} has {asked.kind}s 0 to {size - 1}; {asked.unit} was asked")
    other = _another(asked.unit, size, asked.draw, asked.kind)
    names = [f"L{layer}.{'H' if asked.kind == 'head' else 'N'}{i}" for i in (asked.unit, other)]
    if asked.kind == "head":
        edits = [Edit(Site(site, layer, (i,)), "scale", strength=asked.strength) for i in (asked.unit, other)]
        says = [f"what {name} writes is multiplied by {asked.strength:g} at every token" for name in names]
        return Push(
            (edits[0], edits[1]), (says[0], says[1]), 1.0, "a factor: 0 takes the head away, 1 leaves it as it is"
        )
    value = torch.tensor([asked.strength])
    edits = [Edit(Site(site, layer, (i,)), "set", value) for i in (asked.unit, other)]
    own = model.capture(asked.prompt, site, layers=[layer], positions="all").at(site, layer)[:, asked.unit].float()
    says = [f"{name} is held at {asked.strength:g} at every token" for name in names]
    span = f"{float(own.min()):.2g} to {float(own.max()):.2g}"
    return Push(
        (edits[0], edits[1]),
        (says[0], says[1]),
        1.0,
        f"the activation itself; over this prompt {names[0]} runs from {span}",
    )


def _direction(model: Model, asked: Steering, subspace: Subspace | None) -> Push:
    if subspace is None:
        raise InputError("a direction needs a concept of an atlas; choose one, or clamp a neuron or rescale a head")
    if len(subspace.mean) != model.d_model:
        raise InputError(
            f"the direction has {len(subspace.mean)} values and {model.name} a stream of {model.d_model}; open the atlas with "
            "its own model"
        )
    subspace.check_exists()
    site = subspace.site if asked.layer is None else Site("resid_post", asked.layer)
    model.tap(site.name, site.layer)
    classes = len(subspace.class_points) > 1
    pointing = _pointing(subspace, asked.towards) if classes else subspace.vector.float()
    unit, unit_says = _length(model, asked, site, pointing, classes=classes)
    towards = f" towards {subspace.class_names[asked.towards]}" if classes else ""
    generator = torch.Generator().manual_seed(asked.draw)
    vectors = [
        pointing / pointing.norm(),
        torch.nn.functional.normalize(torch.randn(model.d_model, generator=generator), dim=0),
    ]
    steered, random = (Edit(site, "add", vector, strength=asked.strength * unit) for vector in vectors)
    size, where = f"{asked.strength * unit:+.3g} along", f"added to {site} at every token"
    says = (f"{size} {subspace.concept}{towards}, {where}", f"{size} random direction {asked.draw}, {where}")
    return Push((steered, random), says, unit, unit_says)


def _length(model: Model, asked: Steering, site: Site, pointing: Tensor, *, classes: bool) -> tuple[float, str]:
    """What a strength of 1 is, with a sentence."""
    if asked.scale == "class":
        if not classes:
            raise InputError("a graded concept has no classes; measure the strength in norms of the stream")
        return float(
            pointing.norm()
        ), f"a strength of 1 is the distance of that class from the others ({float(pointing.norm()):.3g})"
    acts = model.capture(asked.prompt, site.name, layers=None if site.layer is None else [site.layer], positions="all")
    stream = acts[site.name] if site.layer is None else acts.at(site.name, site.layer)
    norms = stream.float().norm(dim=-1)
    norms = norms[1:] if len(norms) > 1 else norms  # the first token's stream is often many times as long
    return (
        float(norms.mean()),
        f"a strength of 1 is the mean norm of {site} over the prompt's tokens after the first ({float(norms.mean()):.3g})",
    )


def _another(unit: int, size: int, draw: int, kind: str) -> int:
    """Another unit of the layer. Raises InputError where it is the only one."""
    if size < 2:
        raise InputError(f"the layer has one {kind}, so there is no other one to compare with; choose another layer")
    others = [i for i in range(size) if i != unit]
    return int(np.random.default_rng(draw).choice(others))
