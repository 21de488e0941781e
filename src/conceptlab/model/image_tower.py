"""The image side of an image-text model, and what each of its heads adds to a picture's embedding in the joint space.

A head's output at the class token goes through the final norm, held at the real stream of that picture, and the projection
(Gandelsman et al. 2024); parts of all heads, MLPs and the embedding add up to the picture's embedding before it is scaled to
length 1, which is checked on the whole stream. What a head does through later blocks is not in it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conceptlab.errors import InputError, SiteError
from conceptlab.model.frozen_norm import allowed_error, freeze_norm
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.load import load_model
from conceptlab.model.model import Model


@dataclass(frozen=True, eq=False)
class ImageTower:
    """The image side of an image-text model: `model` (its blocks), the final `norm` and the `projection` to the joint space."""

    model: Model
    norm: nn.Module
    projection: nn.Linear

    @classmethod
    def of(cls, clip: nn.Module) -> "ImageTower":
        """The tower of a model laid out as CLIPModel. Raises InputError for any other."""
        vision, projection = getattr(clip, "vision_model", None), getattr(clip, "visual_projection", None)
        norm = getattr(vision, "post_layernorm", None)
        if vision is None or norm is None or not isinstance(projection, nn.Linear):
            raise InputError(
                f"{type(clip).__name__} has no vision_model with a post_layernorm and a visual_projection; give a CLIPModel"
            )
        return cls(load_model(vision), norm, projection)

    @torch.no_grad()
    def embedded(self, pictures: Tensor) -> Tensor:
        """Embeddings [picture, d_joint] under the active edits, not scaled to length 1."""
        made = [self.projection(self.model.module(pixel_values=part).pooler_output) for part in pictures.split(256)]
        self.model.forwards += len(pictures)
        return torch.cat(made)


@torch.no_grad()
def joint_contributions(tower: ImageTower, pictures: Tensor) -> Tensor:
    """Contributions [picture, layer, head, d_joint] of every head for `pictures` [picture, channel, height, width].

    Raises SiteError where heads cannot be told apart, or the end is no norm and projection of the first token.
    """
    model, last = tower.model, tower.model.n_layers - 1
    found = []
    for part in pictures.split(256):
        wanted = {"z": range(last + 1), "attn_out": range(last + 1), "resid_post": [last]}
        acts = model.capture({"pixel_values": part}, wanted, positions=[0])
        final = acts.at("resid_post", last)
        made = tower.norm(final)
        norm = freeze_norm(tower.norm, final, made, name=f"{model.name}: the final norm")
        whole, wants = tower.projection(made), tower.embedded(part[:1])
        if not bool((whole[:1] - wants).norm() <= allowed_error(final.dtype) * wants.norm()):
            raise SiteError(
                f"{model.name}: its embedding is not the normed and projected first token, so parts do not add up"
            )
        each = torch.stack([head_outputs(model, acts, layer).each for layer in range(last + 1)], 1)
        found.append(norm.of(each).to(whole) @ tower.projection.weight.T)
    return torch.cat(found)
