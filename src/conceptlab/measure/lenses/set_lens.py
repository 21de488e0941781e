"""Set lens: how likely a layer's lens finds any token of a set (a concept's words, a language), beside random sets of its size.

P_l(S) = sum over t in S of softmax(lens_l)_t at every layer. Source: nostalgebraist 2020 (lens); Wendler et al. 2024 (language
sets). Departure: random sets are drawn from `pool` (give tokens of like frequency), without it from the whole vocabulary, since
corpora are not at hand here. Control: those sets. Cost: as the logit lens.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.measure.lenses.lens_pass import BUDGET_BYTES, Translator, lens_pieces, record_streams
from conceptlab.model import Model
from conceptlab.model.layout import Positions
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "set lens",
    "paper": "nostalgebraist 2020; Wendler et al. 2024, Do Llamas Work in English?",
    "tags": ["lens", "depth", "concept"],
    "takes": "a model, texts, sets of tokens",
    "returns": "Scores",
    "cost": "one forward, one unembedding a layer of the asked positions",
}


def set_lens(  # noqa: PLR0913 - the lens and what to read through it
    model: Model,
    texts: Texts,
    sets: Mapping[str, Sequence[int]],
    *,
    positions: Positions = "last",
    translator: Translator | None = None,
    pool: Sequence[int] | None = None,
    n_random: int = 200,
    budget_bytes: int = BUDGET_BYTES,
    seed: int = 0,
) -> Scores:
    """Axes layer, set: `score` mean P(set) (`low`, `high` bootstrap over texts), `control` of random sets of its size
    (`control_high` 95 %), `p` one-sided, `q` over all; `each` [token, layer, set] the single positions.

    Raises InputError for an empty set, repeated tokens, or a pool smaller than a set.
    """
    size, rng = model.unembedding.shape[0], np.random.default_rng(seed)
    source = np.arange(size) if pool is None else np.unique(np.asarray(pool))
    chosen = [_checked(name, ids, size, len(source)) for name, ids in sets.items()]
    draws = [np.stack([rng.choice(source, len(ids), replace=False) for _ in range(n_random)]) for ids in chosen]
    before = model.forwards
    streams = record_streams(model, texts, positions)
    shape = (len(streams.row), len(streams.labels), len(sets))
    each, null = np.zeros(shape), np.zeros((n_random, *shape[1:]))
    for tokens, at, logp, _ in lens_pieces(model, streams, translator, budget_bytes):
        p = logp.double().exp().cpu().numpy()
        total = p.sum(0) / len(streams.row)
        for s, (ids, random) in enumerate(zip(chosen, draws, strict=True)):
            each[tokens, at, s] = p[:, ids].sum(1)
            null[:, at, s] += total[random].sum(1)
    score = each.mean(0)
    low, high = bootstrap_mean(each, streams.row, seed=seed)
    p = permutation_p(score, null)
    by = ("layer", "set")
    data = {
        "score": (by, score), "low": (by, low), "high": (by, high), "control": (by, null.mean(0)),
        "control_high": (by, np.quantile(null, 0.95, axis=0)), "p": (by, p),
        "q": (by, q_values(p.ravel()).reshape(p.shape)), "each": (("token", *by), each),
    }  # fmt: skip
    coords = {"layer": list(streams.labels), "set": list(sets), "row": ("token", streams.row)}
    provenance = Provenance(
        "set lens", len(streams.batch), seed, model.name, model.revision,
        settings={"n_random": n_random, "pool": len(source)}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(xr.Dataset(data, coords=coords), provenance)


def _checked(name: str, ids: Sequence[int], size: int, available: int) -> list[int]:
    found = [int(i) for i in ids]
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= size:
        raise InputError(
            f"the set {name!r} has {len(found)} tokens; give at least one, each once, between 0 and {size - 1}"
        )
    if len(found) > available:
        raise InputError(f"the set {name!r} has {len(found)} tokens and the pool {available}; give a larger pool")
    return found
