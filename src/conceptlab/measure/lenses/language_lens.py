"""Which language does each layer speak? The lens' probability on the words of each language, layer by layer.

Words that are in several sets are a set of their own, so that what is shared is not counted for one. `skip` leaves tokens out
of the whole (white space, line ends). Source: How Programming Concepts and Neurons Are Shared in Code Language Models (2025).
Departure: all of the distribution in place of its ten likeliest tokens. Control: as many random other tokens of the vocabulary.
Cost: one forward, and one unembedding of the asked positions a layer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.measure.lenses.lens_pass import lens_pieces, record_streams
from conceptlab.model import Model
from conceptlab.model.layout import Positions
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "language lens",
    "paper": "How Programming Concepts and Neurons Are Shared in Code Language Models (2025)",
    "tags": ["lens", "languages"],
    "takes": "a model, texts, token ids by language",
    "returns": "Scores",
    "cost": "one forward, one unembedding a layer of the asked positions",
}
SHARED = "shared"


def language_lens(
    model: Model,
    texts: Texts,
    words: Mapping[str, Sequence[int]],
    *,
    positions: Positions = "all",
    skip: Sequence[int] = (),
    n_random: int = 20,
    seed: int = 0,
) -> Scores:
    """Axes (layer, language): `score` mean probability with `low`, `high` (95 %, texts drawn again), `control` of random
    tokens; layers are `embed`, 0, 1, ... and languages those of `words`, then "shared" where sets overlap. Raises InputError
    for no or empty sets.
    """
    if not words or not all(len(ids) for ids in words.values()):
        raise InputError("every language needs at least one token id; give those of its words")
    size, before, rng = model.unembedding.shape[0], model.forwards, np.random.default_rng(seed)
    sets = _apart(words, size)
    free = np.setdiff1d(np.arange(size), list(skip))
    masks = torch.zeros(len(sets) * (1 + n_random), size)
    for k, ids in enumerate(sets.values()):
        masks[k, torch.from_numpy(np.setdiff1d(ids, list(skip)))] = 1
        for draw in range(n_random):
            other = rng.choice(free, size=min(len(ids), len(free)), replace=False)
            masks[len(sets) * (1 + draw) + k, torch.from_numpy(other)] = 1
    streams = record_streams(model, texts, positions)
    found = np.zeros((len(streams.labels), len(streams.values), len(masks)))
    for tokens, at, logp, _ in lens_pieces(model, streams):
        kept = logp.exp().cpu()
        kept[:, list(skip)] = 0
        found[at, tokens] = (kept @ masks.T / kept.sum(1, keepdim=True).clamp_min(1e-30)).double().numpy()
    real = found[:, :, : len(sets)]
    low, high = bootstrap_mean(np.moveaxis(real, 1, 0), streams.row, n_resamples=400, seed=seed)
    random = found[:, :, len(sets) :].mean(1).reshape(len(found), n_random, len(sets))
    columns = {"score": real.mean(1), "low": low, "high": high,
               "control": random.mean(1) if n_random else np.full(low.shape, np.nan)}  # fmt: skip
    data = xr.Dataset(
        {name: (("layer", "language"), column) for name, column in columns.items()},
        coords={"layer": list(streams.labels), "language": list(sets)},
    )
    provenance = Provenance(
        "language lens", len(streams.batch), seed, model.name, model.revision, passes=round(model.forwards - before),
        settings={"words": {name: len(ids) for name, ids in sets.items()}, "n_random": n_random, "skip": len(skip)},
    )  # fmt: skip
    return Scores(data, provenance)


def _apart(words: Mapping[str, Sequence[int]], size: int) -> dict[str, np.ndarray]:
    """Sets without what they share, and that as a set of its own. Raises InputError for ids outside the vocabulary."""
    counts = np.zeros(size, dtype=int)
    for name, ids in words.items():
        if min(ids) < 0 or max(ids) >= size:
            raise InputError(f"a word of {name!r} is outside the vocabulary of {size}; ids run from 0")
        counts[np.unique(np.asarray(ids))] += 1
    shared = np.flatnonzero(counts > 1)
    found = {name: np.setdiff1d(np.asarray(ids), shared) for name, ids in words.items()}
    return found if not len(shared) else {**found, SHARED: shared}
