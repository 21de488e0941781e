"""Read a concept's rows off the model: every site the atlas needs, at one position a row, in one pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.measure.probing.streams import locate, make_problem, read_noised, stream_at

if TYPE_CHECKING:
    from conceptlab.data import Concept
    from conceptlab.model import Batch, Model

__all__ = ["Reading", "locate", "make_problem", "read_concept", "read_noised", "read_quantised"]


@dataclass(frozen=True, eq=False)
class Reading:
    """One concept on one model. `stream` [row, layer, d_model] with the embedding first, `z` [row, layer, head, d_head] and
    `post` [row, layer, d_mlp] at layers `z_layers`/`post_layers` (None where the model has none), `read` [row] the position
    of the last token of each row's span, `token` [row] its id."""

    batch: "Batch"
    read: list[int]
    token: np.ndarray
    stream: Tensor
    z: Tensor | None
    post: Tensor | None
    z_layers: tuple[int, ...]
    post_layers: tuple[int, ...]
    warnings: tuple[str, ...]


def read_concept(model: "Model", concept: "Concept") -> Reading:
    """Run every row once and keep stream, heads and neurons at its read position. Raises DataError naming the row."""
    batch, read = locate(model, concept)
    positions, warnings = [[r] for r in read], []
    extra: dict[str, tuple[int, ...]] = {}
    for site in ("z", "mlp_post"):
        layers = model.layers_with(site)
        if not layers:
            warnings.append(_why_missing(model, site))
        elif len({(model.tap(site, i).width, model.tap(site, i).heads) for i in layers}) > 1:
            warnings.append(f"{site} differs in shape between layers, so its units are not ranked together")
        else:
            extra[site] = layers
    acts = model.capture(batch, ["embed", "resid_post", *extra], positions=positions)
    stream = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1).float().cpu()
    token = np.array([row[r] for row, r in zip(batch.ids, read, strict=True)])
    values = {site: acts[site].float().cpu() for site in extra}
    return Reading(
        batch, read, token, stream, values.get("z"), values.get("mlp_post"),
        extra.get("z", ()), extra.get("mlp_post", ()), tuple(warnings),
    )  # fmt: skip


def _why_missing(model: "Model", site: str) -> str:
    try:
        model.tap(site, 0)
    except SiteError as error:
        return str(error)
    return f"{site} exists in no layer"


def read_quantised(model: "Model", reading: Reading) -> Tensor:
    """Stream [row, layer, d_model] of the same rows with int8 weights."""
    from conceptlab.model.quantise import quantised

    with quantised(model):
        return stream_at(model, reading.batch, reading.read)
