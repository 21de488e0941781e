"""Read a concept's rows off the model: every site the atlas needs, at one position a row, in one pass."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import DataError, ModelError, SiteError
from conceptlab.evidence import make_folds, permuted_labels
from conceptlab.measure.probing.columns import Problem, choose_metric

if TYPE_CHECKING:
    from conceptlab.data import Concept
    from conceptlab.model import Batch, Model

NOISE = ("aaa", "bbb")  # three letters glued to the front of a text (Jin et al. 2024)


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


def locate(model: "Model", concept: "Concept", prefix: list[str] | None = None) -> tuple["Batch", list[int]]:
    """Tokens of the rows and the last token of each row's span. With `prefix` [row] that text is glued to the front."""
    texts = list(concept.texts) if prefix is None else [p + t for p, t in zip(prefix, concept.texts, strict=True)]
    shift = [0] * len(texts) if prefix is None else [len(p) for p in prefix]
    spans = [None if s is None else (s[0] + d, s[1] + d) for s, d in zip(concept.spans, shift, strict=True)]
    try:
        batch = model.encode(texts)
        return batch, [found[-1] for found in batch.positions_of(spans)]
    except ModelError as error:
        raise DataError(f"concept {concept.name!r}: {error}") from error


def read_noised(model: "Model", concept: "Concept", seed: int) -> Tensor:
    """Stream [row, layer, d_model] of the rows with noise letters in front. Raises DataError where a row gets too long."""
    rng = np.random.default_rng(seed)
    batch, read = locate(model, concept, [NOISE[i] for i in rng.integers(0, 2, concept.n)])
    return _stream(model, batch, read)


def read_quantised(model: "Model", reading: Reading) -> Tensor:
    """Stream [row, layer, d_model] of the same rows with int8 weights."""
    from conceptlab.model.quantise import quantised

    with quantised(model):
        return _stream(model, reading.batch, reading.read)


def _stream(model: "Model", batch: "Batch", read: list[int]) -> Tensor:
    acts = model.capture(batch, ["embed", "resid_post"], positions=[[r] for r in read])
    return torch.cat([acts["embed"][:, None], acts["resid_post"]], 1).float().cpu()


def make_problem(concept: "Concept", permutations: int, seed: int) -> Problem:
    """The concept's labels, real and shuffled, with its folds. Raises DataError where the rows do not allow folds."""
    try:
        folds = make_folds(concept.labels, concept.groups, seed=seed)
    except DataError as error:
        raise DataError(f"concept {concept.name!r}: {error}") from error
    shuffled = permuted_labels(concept.labels, concept.groups, permutations, seed + 1, folds=folds)
    labels = np.concatenate([concept.labels[None], shuffled])
    return Problem(labels, folds, concept.kind, choose_metric(concept.labels, concept.kind))
