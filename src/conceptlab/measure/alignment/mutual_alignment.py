"""Mutual alignment of two texts: how many tokens of one are each other's nearest neighbours with a token of the other, by layer.

A source token counts where its nearest candidate token (cosine) has it as its own nearest source token. Analogous stories should
align where the model stands for roles and relations, whatever their words. Source: The Curious Case of Analogies (mutual
alignment score). Departures, each against an artefact: words that both texts share, and `ignored` ones, are left out (they match
trivially); the mean of the layer at each position is subtracted (a common direction makes all cosines high, and tokens at one
place in their texts are alike for that alone); and since short texts match more by chance, the score is taken above what the same
tokens give under random rotations of one side. Control: the source with other rows' candidates (`shuffled`), p by which of them
is its own. Cost: one forward of both sides; rows x (1 + n_shuffles) x (1 + n_rotations) small cosine matrices a layer.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values, resample_counts
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.numerics.ranks import weighted_auc
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "mutual alignment score",
    "paper": "The Curious Case of Analogies",
    "tags": ["alignment", "depth", "analogy"],
    "takes": "a model, source texts, analogous texts",
    "returns": "Scores",
    "cost": "one forward of both sides",
}


FEW = 8  # texts at a position below which its own mean would say more of them than of the position


def mutual_share(source: Tensor, candidate: Tensor) -> Tensor:
    """Share [...] of `source` tokens [..., s, d] whose nearest `candidate` token [..., c, d] (cosine) has them as its nearest."""
    a, b = (x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12) for x in (source, candidate))
    cosine = a @ b.transpose(-1, -2)
    forth, back = cosine.argmax(-1), cosine.argmax(-2)
    same = back.gather(-1, forth) == torch.arange(source.shape[-2], device=source.device)
    return same.float().mean(-1)


@dataclass(frozen=True, eq=False)
class _Side:
    """Tokens of one side: `states` [row] of [layer, token, d_model] less the mean of their position, `ids` [row][token]."""

    states: list[Tensor]
    ids: list[tuple[int, ...]]


@torch.no_grad()
def mutual_alignment(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    sources: Sequence[str],
    candidates: Sequence[str],
    *,
    ignored: Collection[str] = (),
    keep_shared: bool = False,
    n_shuffles: int = 5,
    n_rotations: int = 5,
    n_permutations: int = 499,
    seed: int = 0,
) -> Scores:
    """Alignment of each source with its own candidate, by layer (`embed`, 0, ...), above chance for their lengths.

    Axis layer: `score` mean excess over random rotations (`low`, `high` bootstrap over rows), `control` the same with candidates
    of other rows, `share` the plain share of mutual neighbours and `chance` what rotations give; `auc` of own against other
    candidates (0.5: no difference) with `auc_low`, `auc_high`; `p` that own ones align better, `q` over layers. `each` [layer,
    row]. `ignored` are words (stop-words) whose tokens are left out; `keep_shared` leaves words that both texts share in. Raises
    InputError where the counts differ, there are fewer rows than shuffles need, or a pair has no tokens left.
    """
    n = len(sources)
    if n != len(candidates) or n <= n_shuffles or n_shuffles < 1:
        raise InputError(
            f"{n} sources, {len(candidates)} candidates and {n_shuffles} shuffles; give pairs, more of them than shuffles"
        )
    before, rng = model.forwards, np.random.default_rng(seed)
    left, right = _sides(model, sources, candidates, ignored)
    partners = np.stack([np.arange(n), *_derangements(n, n_shuffles, rng)])  # [1 + shuffle, row]
    turn = _rotations(model.d_model, n_rotations, seed)
    n_layers = left.states[0].shape[0]
    share, chance = np.zeros((2, n_layers, len(partners), n))
    for which, order in enumerate(partners):
        for row, other in enumerate(order):
            pair = _kept(left, right, row, int(other), keep_shared)
            share[:, which, row], chance[:, which, row] = _scores(*pair, turn)
    data = _table(share, chance, n_permutations, rng, seed)
    labels = ["embed", *map(str, range(model.n_layers))]
    settings = {
        "keep_shared": keep_shared,
        "n_shuffles": n_shuffles,
        "n_rotations": n_rotations,
        "ignored": len(ignored),
    }
    provenance = Provenance(
        "mutual alignment score", n, seed, model.name, model.revision,
        settings=settings, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data.assign_coords(layer=labels), provenance)


def _sides(
    model: Model, sources: Sequence[str], candidates: Sequence[str], ignored: Collection[str]
) -> tuple[_Side, _Side]:
    """States of both sides, special tokens and ignored words left out, less what their position has in common."""
    batch = model.encode([*sources, *candidates])
    out = set(getattr(model.tokenizer, "all_special_ids", ())) | _ids_of(model, ignored)
    acts = model.capture(batch, ["embed", "resid_post"], positions="all")
    values = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1).float()
    ids = np.concatenate([np.array(row) for row in batch.ids])
    kept = torch.from_numpy(~np.isin(ids, list(out)))
    values = _centred(values, torch.from_numpy(acts.position), kept)
    states, named = [], []
    for row in range(len(batch)):
        mine = kept & torch.from_numpy(acts.row == row)
        states.append(values[mine].transpose(0, 1))
        named.append(tuple(ids[mine.numpy()].tolist()))
    n = len(sources)
    return _Side(states[:n], named[:n]), _Side(states[n:], named[n:])


def _centred(values: Tensor, position: Tensor, kept: Tensor) -> Tensor:
    """`values` [token, layer, d_model] less the mean of their position over texts, or of the layer where few texts reach it."""
    mean = values[kept].mean(0)
    found = values - mean
    for at in position[kept].unique().tolist():
        here = (position == at) & kept
        if int(here.sum()) >= FEW:
            found[here] = values[here] - values[here].mean(0)
    return found


def _ids_of(model: Model, words: Collection[str]) -> set[int]:
    """Tokens that are an ignored word whole, with or without a space before it."""
    forms = [form for word in words for form in (word, f" {word}", word.capitalize(), f" {word.capitalize()}")]
    coded: Batch | None = model.encode(forms) if forms else None
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    rows = [] if coded is None else [[t for t in row if t not in special] for row in coded.ids]
    return {row[0] for row in rows if len(row) == 1}


def _kept(left: _Side, right: _Side, row: int, other: int, keep_shared: bool) -> tuple[Tensor, Tensor]:
    """States of one pair without the tokens that both texts have."""
    shared = set() if keep_shared else set(left.ids[row]) & set(right.ids[other])
    found = []
    for side, at in ((left, row), (right, other)):
        own = [i for i, token in enumerate(side.ids[at]) if token not in shared]
        if not own:
            raise InputError(
                f"source {row} and candidate {other} have no words left that are theirs alone; give longer texts"
            )
        found.append(side.states[at][:, own])
    return found[0], found[1]


def _rotations(d_model: int, n: int, seed: int) -> Callable[[Tensor], Tensor]:
    """Random orthogonal matrices, applied to [layer, token, d_model]: [rotation, layer, token, d_model]."""
    generator = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(n, d_model, d_model, generator=generator))[0]
    return lambda x: torch.einsum("ltd,rde->rlte", x, turned.to(x))


def _scores(source: Tensor, candidate: Tensor, turn: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Share of mutual neighbours [layer], and what it is on average with the candidate side turned at random."""
    share = mutual_share(source, candidate)
    chance = mutual_share(source.expand(len(turned := turn(candidate)), *source.shape), turned).mean(0)
    return share.cpu().numpy(), chance.cpu().numpy()


def _derangements(n: int, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Other rows for every row: `count` different shifts along one random order, so that no row meets itself."""
    order = rng.permutation(n)
    place = np.argsort(order)
    return [order[(place + shift) % n] for shift in 1 + rng.choice(n - 1, size=count, replace=False)]


def _table(
    share: np.ndarray, chance: np.ndarray, n_permutations: int, rng: np.random.Generator, seed: int
) -> xr.Dataset:
    """`share` and `chance` [layer, 1 + shuffle, row], own candidates first."""
    excess = share - chance
    own, others = excess[:, 0], excess[:, 1:].mean(1)
    low, high = bootstrap_mean(own.T, seed=seed)
    n_layers, n_sets, n = excess.shape
    counts = resample_counts(n, None, 500, seed).astype(float)
    weights = np.concatenate([np.ones((1, n)), counts])
    positive = np.repeat([1.0, *[0.0] * (n_sets - 1)], n)
    auc = np.stack([weighted_auc(layer.reshape(-1), positive, np.tile(weights, n_sets)) for layer in excess])
    lead = excess[:, 0] - excess.mean(1)  # which of its candidates is a row's own is exchangeable under the null
    drawn = rng.integers(0, n_sets, (n_permutations, n))
    null = np.stack([(excess[:, pick, np.arange(n)] - excess.mean(1)).mean(1) for pick in drawn], 1)  # [layer, draw]
    p = (1 + (null >= lead.mean(1)[:, None] - 1e-12).sum(1)) / (1 + n_permutations)
    columns = {
        "score": own.mean(1), "low": low, "high": high, "control": others.mean(1), "share": share[:, 0].mean(1),
        "chance": chance[:, 0].mean(1), "auc": auc[:, 0], "auc_low": np.quantile(auc[:, 1:], 0.025, axis=1),
        "auc_high": np.quantile(auc[:, 1:], 0.975, axis=1), "p": p, "q": q_values(p),
    }  # fmt: skip
    data = xr.Dataset({name: ("layer", column) for name, column in columns.items()})
    return data.assign(each=(("layer", "row"), own))
