"""Do translations lie closest to each other? Share of sentences whose nearest in the other language is their own translation
(MEXA).

A sentence is the mean of its tokens' stream, later tokens weighted more (1 to T). A pair counts where its cosine is above
every other of its row and of its column. Source: Kargaran et al. 2024, MEXA. Control: the other language's sentences in
another order.
Cost: one forward of either set of texts.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.model import Model
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "MEXA",
    "paper": "Kargaran et al. 2024, MEXA: Multilingual Evaluation via Cross-Lingual Alignment",
    "tags": ["alignment", "languages"],
    "takes": "a model, two lists of parallel texts",
    "returns": "Scores",
    "cost": "one forward of the texts",
}


def mexa(model: Model, texts: Sequence[str], parallel: Sequence[str], *, n_random: int = 20, seed: int = 0) -> Scores:
    """Axis layer (embed, 0, 1, ...): `score` with `low`, `high` (95 %, pairs drawn again), `control` mean over other orders.

    Raises InputError for fewer than three pairs or lists of unequal length.
    """
    if len(texts) != len(parallel) or len(texts) < 3:
        raise InputError(f"{len(texts)} and {len(parallel)} texts are no list of pairs; give three pairs or more")
    before, rng = model.forwards, np.random.default_rng(seed)
    one, other = (sentence_vectors(model, side) for side in (texts, parallel))
    cosine = torch.einsum("alw,blw->lab", one, other).numpy()
    real = _nearest(cosine)
    drawn = [_nearest(cosine[:, :, _moved(len(texts), rng)]).mean(1) for _ in range(n_random)]
    ends = np.array([bootstrap_share(row, seed=seed) for row in real.astype(float)])
    columns = {"score": real.mean(1), "low": ends[:, 0], "high": ends[:, 1],
               "control": np.mean(drawn, 0) if drawn else np.full(len(real), np.nan)}  # fmt: skip
    data = xr.Dataset(
        {name: ("layer", column) for name, column in columns.items()},
        coords={"layer": ["embed", *map(str, range(model.n_layers))]},
    )
    provenance = Provenance(
        "MEXA", len(texts), seed, model.name, model.revision, settings={"n_random": n_random},
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def sentence_vectors(model: Model, texts: Sequence[str]) -> Tensor:
    """Unit vectors [text, layer + 1, d_model]: means of the stream, position by position more weight."""
    acts = model.capture(list(texts), ["embed", "resid_post"], positions="all")
    values = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1).double().cpu()
    weight = torch.from_numpy(acts.position + 1.0)
    row = torch.from_numpy(acts.row)
    total = torch.zeros(len(texts), *values.shape[1:], dtype=torch.double)
    total.index_add_(0, row, values * weight[:, None, None])
    return torch.nn.functional.normalize(total, dim=-1)


def _nearest(cosine: np.ndarray) -> np.ndarray:
    """Whether each pair [layer, pair] is above all others of its row and column, from cosines [layer, text, parallel]."""
    own = np.diagonal(cosine, axis1=1, axis2=2)
    rest = cosine.copy()
    every = np.arange(cosine.shape[1])
    rest[:, every, every] = -np.inf
    return (own > rest.max(2)) & (own > rest.max(1))


def _moved(n: int, rng: np.random.Generator) -> np.ndarray:
    """An order in which nothing is in its own place."""
    order = rng.permutation(n)
    out = np.empty(n, dtype=int)
    out[order] = np.roll(order, 1)
    return out
