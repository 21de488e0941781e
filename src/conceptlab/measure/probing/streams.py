"""A concept's rows as a model reads them: tokens and read positions, the stream there (plain or noised), and folds."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import DataError, ModelError
from conceptlab.evidence import make_folds, permuted_labels
from conceptlab.measure.probing.columns import Problem, choose_metric

if TYPE_CHECKING:
    from conceptlab.data import Concept
    from conceptlab.model import Batch, Model

NOISE = ("aaa", "bbb")  # three letters glued to the front of a text (Jin et al. 2024)


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
    return stream_at(model, batch, read)


def stream_at(model: "Model", batch: "Batch", read: list[int]) -> Tensor:
    """Stream [row, layer, d_model], the embedding first, at one position `read` [row] of each row."""
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
