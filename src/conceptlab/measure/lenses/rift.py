"""The rift: at which layer words of the context overtake, in the lens, the words that the last token alone would call up.

Two sets of tokens a row: those of its context (without the token that is read), and as many others that the model ranks highest
after the last token alone, its bigram prior. Both masses are read off the lens of the last position; sets are of one size, so
that a lens that says nothing gives both the same. Source: Dutta et al. 2024, How to think step-by-step (the rift of Llama-2 7B).
Departure: the prior is asked of the model itself, where the paper compares with the pretraining corpus. Control: the same sets
under random renamings of the tokens, one renaming for all rows: words that repeat from row to row count as one, so that an
accident of a few words is no finding. p from the renamings, q over layers. Cost: two forwards of the rows (one of them of the
last token alone), one unembedding a layer of the last position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values, resample_counts
from conceptlab.evidence.row_groups import row_groups
from conceptlab.measure.lenses.lens_pass import Translator, lens_pieces, record_streams
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "rift of prior and context",
    "paper": "Dutta et al. 2024, How to think step-by-step",
    "tags": ["lens", "depth", "context"],
    "takes": "a model, texts",
    "returns": "Scores",
    "cost": "two forwards, one unembedding a layer of the last position",
}


@dataclass(frozen=True, eq=False)
class _Sets:
    """`context`, `prior` [row] of token ids, and `renamed` [draw, token]: the stand-in of each id of `known` [token]."""

    context: list[Tensor]
    prior: list[Tensor]
    known: Tensor
    renamed: Tensor

    def masses(self, prob: Tensor, row: int) -> Tensor:
        """[2, 1 + draw] of `prob` [d_vocab]: context and prior of one row, real first, then renamed."""
        found = []
        for ids in (self.context[row], self.prior[row]):
            drawn = self.renamed[:, torch.searchsorted(self.known, ids)]
            every = torch.cat([ids[None], drawn]).to(prob.device)
            found.append(prob[every].sum(-1))
        return torch.stack(found).cpu()


@torch.no_grad()
def rift(  # noqa: PLR0913 - the lens and what it compares
    model: Model,
    texts: Texts,
    *,
    priors: Sequence[Sequence[int]] | None = None,
    groups: Sequence[int | str] | None = None,
    translator: Translator | None = None,
    n_renamings: int = 499,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Masses of context and prior by layer (`embed`, 0, ...) at the last position; `priors` [row][...] are token ids in place of
    the model's own prior.

    Axis layer: `score` mass of the context minus mass of the prior (mean over rows, `low`, `high` bootstrap), `control` the same
    for renamed tokens, `context`, `prior` the masses, `p` that the score is larger than under renamings, `q` over layers.
    Attributes: `rift`, the place on the layer axis from which on the context leads, for sure (q <= 0.05), after the prior had led
    for sure (-1: none); `rift_layer` its block (-1: none); `rift_low`, `rift_high` 95 % of the crossing over resampled rows,
    `found` the share of them that cross. Raises InputError where a row's context has no token but the last, SiteError where the
    model has no lens.
    """
    batch, before = model.encode(texts), model.forwards
    together = row_groups(groups, len(batch))
    sets = _token_sets(model, batch, priors, n_renamings, seed)
    streams = record_streams(model, batch, "last")
    mass = np.zeros((2, len(streams.labels), len(batch)))
    null = np.zeros((n_renamings, len(streams.labels)))
    for tokens, at, logp, _ in lens_pieces(model, streams, translator):
        for row, prob in zip(range(len(batch))[tokens], logp.exp(), strict=True):
            found = sets.masses(prob, row).double().numpy()
            mass[:, at, row] = found[:, 0]
            null[:, at] += (found[0, 1:] - found[1, 1:]) / len(batch)
    data = _table(mass, null, list(streams.labels), together, n_resamples, seed)
    said = "given" if priors is not None else "the model after the last token alone"
    provenance = Provenance(
        "rift of prior and context", len(batch), seed, model.name, model.revision,
        settings={"prior": said, "n_renamings": n_renamings}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def _token_sets(model: Model, batch: Batch, priors: Sequence[Sequence[int]] | None, n: int, seed: int) -> _Sets:
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    ranked = likeliest_after_last(model, batch) if priors is None else priors
    context, prior = [], []
    for row, ids in enumerate(batch.ids):
        own = sorted(set(ids[:-1]) - special - {ids[-1]})
        if not own:
            raise InputError(f"row {row}: its context has no token but the last one; give longer prompts")
        others = [int(t) for t in ranked[row] if int(t) not in set(own) and int(t) != ids[-1]]
        context.append(torch.tensor(own))
        prior.append(torch.tensor(sorted(others[: len(own)]), dtype=torch.long))
    known = torch.cat([*context, *prior]).unique()
    free = np.setdiff1d(np.arange(model.unembedding.shape[0]), sorted(special))
    if len(free) < len(known):
        raise InputError(f"{len(known)} tokens in a vocabulary of {len(free)} leave nothing to rename them to")
    rng = np.random.default_rng(seed)
    renamed = np.stack([rng.choice(free, len(known), replace=False) for _ in range(n)])
    return _Sets(context, prior, known, torch.from_numpy(renamed))


@torch.no_grad()
def likeliest_after_last(model: Model, batch: Batch) -> list[list[int]]:
    """Token ids [row][...], the likeliest first, after the last token alone (behind the first one where that is special)."""
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    short = Batch(tuple((ids[0], ids[-1]) if ids[0] in special else (ids[-1],) for ids in batch.ids))
    logits = model.logits(short).float()
    logits[:, sorted(t for t in special if t < logits.shape[1])] = float("-inf")
    enough = min(logits.shape[1] - len(special), 2 * max(batch.lengths) + 1)
    return logits.topk(enough, -1).indices.tolist()


def _table(
    mass: np.ndarray, null: np.ndarray, labels: list[str], together: np.ndarray, n_resamples: int, seed: int
) -> xr.Dataset:
    """`mass` [set, layer, row]; `null` [draw, layer] of the mean lead."""
    lead = mass[0] - mass[1]
    mean = lead.mean(1)
    p, behind = permutation_p(mean, null), permutation_p(-mean, -null)
    q = q_values(p)
    place = _place(mean, q <= 0.05, q_values(behind) <= 0.05)
    counts = resample_counts(lead.shape[1], together, n_resamples, seed).astype(float)
    drawn = np.array([_crossing(one) for one in counts @ lead.T])
    inside = drawn[drawn >= 0]
    low, high = bootstrap_mean(lead.T, together, seed=seed)
    columns = {"score": mean, "low": low, "high": high, "control": null.mean(0), "p": p, "q": q}
    columns |= {"context": mass[0].mean(1), "prior": mass[1].mean(1)}
    data = xr.Dataset({name: ("layer", column) for name, column in columns.items()}, coords={"layer": labels})
    bounds = np.quantile(inside, [0.025, 0.975]) if len(inside) else (np.nan, np.nan)
    data.attrs = {
        "rift": place,
        "rift_layer": place - 1 if place > 0 else -1,
        "rift_low": float(bounds[0]),
        "rift_high": float(bounds[1]),
        "found": float((drawn >= 0).mean()),
    }
    return data.assign(each=(("layer", "row"), lead))


def _crossing(lead: np.ndarray) -> int:
    """The first place from which on `lead` [layer] stays above 0 although it was below it just before; -1: none."""
    behind = np.flatnonzero(lead <= 0)
    return int(behind[-1]) + 1 if len(behind) and behind[-1] + 1 < len(lead) else -1


def _place(lead: np.ndarray, ahead: np.ndarray, behind: np.ndarray) -> int:
    """The crossing, where the prior was ahead for sure somewhere before it and the context is for sure from it on."""
    at = _crossing(lead)
    return at if at > 0 and behind[:at].any() and ahead[at:].all() else -1
