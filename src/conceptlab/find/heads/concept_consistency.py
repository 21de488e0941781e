"""How purely does a head of an image-text model stand for one concept? Texts that span its outputs, and how many of them agree.

Each head's contribution to the joint space over many images is spanned by a few texts (TextSpan, Gandelsman et al. 2024); the
head's label is the concept that most of them belong to, and the Concept Consistency Score is the share that does (Pruning the
Paradox, 2025). Control: concepts of the texts shuffled. Departures: a text's concept is given with it, where the paper asks
language models to label and judge; ties go to the text that explains most. Heads that vary by less than `LEAST` of the largest
have no score.
Cost: none of the model; per head one decomposition of images x width and `n_spans` products of images x texts.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.find.detector import DRAWS, Scored, ranked
from conceptlab.numerics.text_span import text_span
from conceptlab.results import Provenance, Scores, Units

CARD = {
    "name": "concept consistency score",
    "paper": "Gandelsman et al. 2024, TextSpan; Pruning the Paradox, 2025",
    "tags": ["heads", "image-text", "sparse coding"],
    "takes": "contributions [image, layer, head, d], texts [text, d] with a concept each",
    "returns": "Units",
    "cost": "no model passes",
}
N_SPANS, RANK = 5, 80
LEAST = 1e-6  # of the largest variance: a head that says nothing has no label


def concept_consistency(  # noqa: PLR0913 - one experiment, fully stated
    contributions: Tensor,
    texts: Tensor,
    concepts: Sequence[str],
    *,
    n_spans: int = N_SPANS,
    rank: int = RANK,
    n_draws: int = DRAWS,
    seed: int = 0,
    model: str = "",
) -> Units:
    """Rank heads by the share of their spans that belongs to one concept (0 to 1).

    Besides the usual columns: `label` (the concept), axis span: `spans` (numbers of texts) and `explained`. Raises InputError for
    shapes that do not fit, fewer than two concepts, or fewer texts or images than spans.
    """
    names = _checked(contributions, texts, concepts, n_spans)
    kind = np.array([names.index(concept) for concept in concepts])
    n_layers, n_heads = contributions.shape[1:3]
    spans, explained = np.full((n_layers, n_heads, n_spans), -1), np.zeros((n_layers, n_heads, n_spans))
    spread = contributions.double().var(0).sum(-1)
    for layer, head in np.argwhere((spread > LEAST * spread.max()).cpu().numpy()).tolist():
        found = text_span(contributions[:, layer, head], texts, n_spans, rank=rank)
        spans[layer, head], explained[layer, head] = found.texts.numpy(), found.explained.numpy()
    rng = np.random.default_rng(seed)
    score, label = _agreement(spans, kind, len(names))
    null = np.stack([_agreement(spans, rng.permutation(kind), len(names))[0] for _ in range(n_draws)])
    settings = {"n_spans": n_spans, "rank": rank, "n_texts": len(texts), "concepts": names}
    provenance = Provenance("concept consistency", len(contributions), seed, model, settings=settings)
    units = ranked("head", Scored(score, null, len(contributions), settings), provenance)
    at = units.table["layer"].values, units.table["index"].values
    more = {
        "label": ("unit", np.array(names)[label[at]]),
        "spans": (("unit", "span"), spans[at]),
        "explained": (("unit", "span"), explained[at]),
    }
    return replace(units, scores=Scores(units.table.assign(more), provenance))


def at_least(units: Units, share: float) -> float:
    """Share of heads whose score is `share` or more (the published CCS@K, cumulated)."""
    return float((units.table["score"].values >= share - 1e-9).mean())


def _agreement(spans: np.ndarray, kind: np.ndarray, n_kinds: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of a head's spans that is of its most frequent kind, [layer, head] (NaN without spans), and that kind."""
    each = np.where(spans >= 0, kind[spans], -1)
    count = np.stack([(each == k).sum(-1) for k in range(n_kinds)], -1)
    first = each[..., 0]
    bonus = (np.arange(n_kinds) == first[..., None]) * 0.5  # ties go to the first, which explains most
    label = (count + bonus).argmax(-1)
    share = np.take_along_axis(count, label[..., None], -1)[..., 0] / spans.shape[-1]
    return np.where(first >= 0, share, np.nan), label


def _checked(contributions: Tensor, texts: Tensor, concepts: Sequence[str], n_spans: int) -> list[str]:
    if contributions.dim() != 4 or texts.dim() != 2 or contributions.shape[-1] != texts.shape[-1]:
        raise InputError(
            f"contributions have shape {tuple(contributions.shape)} and texts {tuple(texts.shape)}; give [image, layer, head, "
            "d] and [text, d] of one joint space"
        )
    names = sorted(set(concepts))
    if len(concepts) != len(texts) or len(names) < 2:
        raise InputError(
            f"{len(texts)} texts came with {len(concepts)} labels of {len(names)} concepts; label every text, with two at least"
        )
    if min(len(texts), len(contributions)) < max(2, n_spans):
        raise InputError(
            f"{len(contributions)} images and {len(texts)} texts are too few for {n_spans} spans; give more"
        )
    if not (torch.isfinite(contributions).all() and torch.isfinite(texts).all()):
        raise InputError("contributions or texts hold values that are no numbers; leave those images or texts out")
    return names
