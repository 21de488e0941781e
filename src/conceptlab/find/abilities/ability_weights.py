"""Which single weights serve an ability in all its forms, and nothing else?

Importance of a weight for a corpus is |weight x gradient of its loss|, as a rank inside its matrix (so that no matrix wins by its
scale). A weight serves the ability as well as it serves the form that needs it least (the minimum over corpora). What is among the
top `general` of the general corpus is left out, and of the rest the best `share` of all weights is the spot.
Source: C9 of the methods' specification after Exploring Coding Spot (the published formula of importance was not available; this
is the first-order one of Molchanov et al. 2017). Embeddings, gains and biases serve everything and are not searched.
Control: `matched_weights`, as many weights of every matrix drawn at random, or the largest ones.
Cost: one forward and one backward of every text; one float32 copy of the matrices for each corpus.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.model.text_loss import matrices, weight_importance
from conceptlab.results import Provenance
from conceptlab.results.weights import Weights
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "weights of an ability",
    "paper": "Exploring Coding Spot: Understanding Parametric Contributions to LLM Coding Performance",
    "tags": ["weights", "attribution", "gradients"],
    "takes": "a model, corpora of the ability, a general corpus",
    "returns": "Weights",
    "cost": "one forward and one backward of every text",
}


def ability_weights(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    corpora: Mapping[str, Texts],
    general: Texts,
    *,
    share: float = 0.01,
    general_share: float = 0.5,
    progress: Progress = SILENT,
) -> Weights:
    """The best `share` of all weights for every one of `corpora`, none of them in the top `general_share` for `general`.

    `score` is the rank in its matrix, 1 the highest, least over the corpora. Raises InputError for shares out of (0, 1), no corpus,
    or too few weights left.
    """
    if not 0 < share < 1 or not 0 <= general_share < 1:
        raise InputError(f"share={share:g} and general_share={general_share:g} must lie between 0 and 1")
    if not corpora:
        raise InputError("no corpus of the ability was given; give at least one, {name: texts}")
    before, n, least = model.forwards, 0, {}
    with progress.task("importance of weights", total=len(corpora) + 1) as task:
        for texts in corpora.values():
            ranks = ranked_importance(model, texts)
            least = ranks if not least else {name: torch.minimum(least[name], r) for name, r in ranks.items()}
            n += len(model.encode(texts))
            task.advance()
        for name, ranks in ranked_importance(model, general).items():
            least[name][ranks > 1 - general_share] = -1.0
            task.advance()
    settings = {"corpora": list(corpora), "share": share, "general_share": general_share}
    provenance = Provenance(
        "weights of an ability",
        n,
        0,
        model.name,
        model.revision,
        settings=settings,
        passes=round(model.forwards - before),
    )
    return _best(least, share, provenance)


def ranked_importance(model: Model, texts: Texts) -> dict[str, Tensor]:
    """Rank of each weight's importance inside its matrix, in (0, 1], 1 the highest; 0 where it has none. Flat."""
    found = {}
    for name, values in weight_importance(model, texts).items():
        flat = values.flatten()
        ranks = torch.empty_like(flat)
        ranks[flat.argsort(stable=True)] = torch.arange(1, len(flat) + 1, dtype=flat.dtype) / len(flat)
        found[name] = torch.where(flat > 0, ranks, 0.0)
    return found


def _best(scores: Mapping[str, Tensor], share: float, provenance: Provenance) -> Weights:
    every = torch.cat(list(scores.values()))
    k = round(share * len(every))
    if int((every > 0).sum()) < k or k < 1:
        raise InputError(
            f"{k} of {len(every)} weights were asked for and {int((every > 0).sum())} are left; choose another share, or a "
            "smaller general_share"
        )
    bar = every.kthvalue(len(every) - k + 1).values
    places = {name: (values >= bar).nonzero().flatten() for name, values in scores.items()}
    return Weights(
        places,
        {name: scores[name][at] for name, at in places.items()},
        {n: len(v) for n, v in scores.items()},
        provenance,
    )


def matched_weights(model: Model, like: Weights, *, by: str = "random", seed: int = 0) -> Weights:
    """As many weights of every matrix as `like` has: drawn at "random" outside it, or the largest by "magnitude"."""
    if by not in ("random", "magnitude"):
        raise InputError(f"by={by!r} is not known; use random or magnitude")
    generator, held = torch.Generator().manual_seed(seed), matrices(model)
    places: dict[str, Tensor] = {}
    for name, taken in like.places.items():
        size = held[name].detach().float().abs().flatten()
        if by == "random":
            size = torch.rand(len(size), generator=generator).to(size)
            size[taken] = -1.0
        places[name] = size.topk(len(taken)).indices.sort().values
    score = {name: torch.full((len(at),), float("nan")) for name, at in places.items()}
    provenance = Provenance(f"weights, {by}", 0, seed, model.name, model.revision, settings={"like": len(like)})
    return Weights(places, score, like.sizes, provenance)
