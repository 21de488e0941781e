"""Rescale the attention of chosen heads to chosen tokens: how often one answer wins against another, as a function of the factor.

At the last position the heads' attention to the keys is multiplied by alpha: after softmax and left short or long (`prob`), after
softmax with the row rescaled to 1 (`renormalised`: the clean run's row, rescaled, is written), or before softmax (`score`). A
score below 0 that is multiplied makes the attention fall, so the attention that results is measured and a factor that turned it
the wrong way is a warning. Source: Ortu et al. 2024, Competition of Mechanisms (their text scales probabilities, their code
scores). Control: random sets of as many other heads under the same factor, p over them; and prompts whose answer should stay
(`neutral`). Cost: sweep of alphas x (1 + n_random) edits over the rows (and the neutral ones), one forward a factor for the
attention.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.measure.effects.unit_effects import random_sets
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.metric import logit_diff, right
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "attention rescaling",
    "paper": "Ortu et al. 2024, Competition of Mechanisms",
    "tags": ["patching", "attention", "heads"],
    "takes": "a model, texts, heads, key positions, two answers",
    "returns": "Scores",
    "cost": "a sweep of alphas x (1 + random sets) edits of the last position",
}
ALPHAS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0)
VARIANTS = ("prob", "renormalised", "score")


@dataclass(frozen=True, eq=False)
class Keyed:
    """Texts with the key positions of each: `keys` [row][...], real tokens, negative from the end."""

    texts: Texts
    keys: Sequence[Sequence[int]]


def attention_rescale(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    prompts: Keyed,
    heads: Sequence[Site],
    answers: Sequence[int],
    distractors: Sequence[int],
    *,
    alphas: Sequence[float] = ALPHAS,
    variant: str = "prob",
    neutral: Keyed | None = None,
    groups: Sequence[int | str] | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> Scores:
    """Share of rows where `answers` beat `distractors` (token ids [row]) with the heads' attention to the keys multiplied.

    Axis alpha: `score` the share (`low`, `high`: bootstrap over rows, or over `groups`), `control` the mean share under random
    sets of other heads, `p` whether the share moves more than under them (two-sided), `q` over alphas; `flips` the share of rows,
    among those that the distractor won unscaled, which the answer wins now, and `flips_control`; `attention` that the heads then
    give to the keys; `each` [alpha, row] and `unscaled_each` [row] say which rows win; with `neutral` the share of its rows whose
    first choice changes, `neutral_change` and its control. Raises InputError for a variant that does not exist, rows without keys
    or heads, and where no other heads are left.
    """
    batch, sets = _checked(model, prompts, heads, variant, n_random, seed)
    _checked(model, prompts if neutral is None else neutral, heads, variant, n_random, seed)
    together, before = row_groups(groups, len(batch)), model.forwards
    scaling = _Scaling(tuple(float(a) for a in alphas), variant, sets)
    metric = logit_diff(answers, distractors)
    base, under = np.zeros(len(batch)), np.zeros((len(scaling.alphas), len(sets), len(batch)))
    attention = np.zeros((len(scaling.alphas) + 1, len(batch)))
    for rows, keys in same_keys(batch, prompts.keys):
        part = batch.select(rows)
        found = sweep(
            model, part, scaling.edits(model, part, keys), replace(metric, tokens=_rows_of(metric.tokens, rows))
        )
        base[rows], under[..., rows] = found.clean, found.values.reshape(*under.shape[:2], len(rows))
        attention[:, rows] = scaling.attention(model, part, keys)
    data = _table(base > 0, under > 0, attention, scaling.alphas, together, seed)
    if neutral is not None:
        changed = _changed(model, neutral, scaling)
        data["neutral_change"] = ("alpha", changed[:, 0].mean(-1))
        data["neutral_control"] = ("alpha", changed[:, 1:].mean((1, 2)))
    settings = {"variant": variant, "heads": [str(h) for h in heads], "n_random": n_random}
    provenance = Provenance(
        "attention rescaling", len(batch), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), causal="patching", warnings=_wrong_way(attention, scaling),
    )  # fmt: skip
    return Scores(data, provenance)


def _checked(
    model: Model, prompts: Keyed, heads: Sequence[Site], variant: str, n_random: int, seed: int
) -> tuple[Batch, list[list[Site]]]:
    """The batch, and the set of heads followed by random sets of as many others."""
    if variant not in VARIANTS:
        raise InputError(f"no variant is called {variant!r}; use {', '.join(VARIANTS)}")
    batch = model.encode(prompts.texts)
    if len(prompts.keys) != len(batch) or not all(len(keys) for keys in prompts.keys):
        raise InputError(
            f"{len(prompts.keys)} lists of key positions came for {len(batch)} texts; give each text at least one"
        )
    layers = model.layers_with("pattern")
    taken = np.zeros((model.n_layers, model.n_heads), dtype=bool)
    for head in heads:
        model.tap("pattern", head.layer)
        taken[head.layer or 0, list(head.units)] = True
    closed = taken | ~np.isin(np.arange(model.n_layers), layers)[:, None]
    if not taken.any() or (~closed).sum() < taken.sum():
        raise InputError(
            f"{int(taken.sum())} of {len(layers) * model.n_heads} heads are to be rescaled; name one at least and half at most"
        )
    drawn = random_sets(int(taken.sum()), taken.shape, n_random, seed, avoid=closed)
    return batch, [_by_layer(one) for one in (taken, *drawn)]


def _by_layer(chosen: np.ndarray) -> list[Site]:
    return [
        Site("pattern", layer, tuple(np.flatnonzero(row).tolist())) for layer, row in enumerate(chosen) if row.any()
    ]


def _rows_of(tokens: Tensor | None, rows: list[int]) -> Tensor | None:
    return None if tokens is None else tokens[rows]


def same_keys(batch: Batch, keys: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], list[int]]]:
    """Rows that have one length and one list of key positions, and that list counted from the start."""
    found: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for row, (length, own) in enumerate(zip(batch.lengths, keys, strict=True)):
        real = tuple(sorted({k + length if k < 0 else k for k in own}))
        if any(not 0 <= k < length for k in real):
            raise InputError(f"row {row} has {length} tokens; the key positions {list(own)} do not all exist")
        found.setdefault((length, real), []).append(row)
    for (_, real), rows in found.items():
        yield rows, list(real)


@dataclass(frozen=True, eq=False)
class _Scaling:
    """The factors, how they are applied, and the sets of heads: the asked one, then random ones."""

    alphas: tuple[float, ...]
    variant: str
    sets: list[list[Site]]

    def edits(self, model: Model, batch: Batch, keys: list[int]) -> list[tuple[Edit, ...]]:
        """One item for each factor and set, factor by factor."""
        clean = None
        if self.variant == "renormalised":
            clean = model.capture(batch, "pattern")["pattern"]
        return [self._item(model, alpha, sites, keys, clean) for alpha in self.alphas for sites in self.sets]

    def _item(
        self, model: Model, alpha: float, sites: list[Site], keys: list[int], clean: Tensor | None
    ) -> tuple[Edit, ...]:
        if clean is None:
            op = "scale" if self.variant == "prob" else "scale_scores"
            return tuple(Edit(site, op, strength=alpha, positions="last", keys=keys) for site in sites)
        layers = model.layers_with("pattern")
        return tuple(
            Edit(
                site,
                "set",
                value=_rescaled(clean[:, layers.index(site.layer or 0), list(site.units)], keys, alpha),
                positions="last",
            )
            for site in sites
        )

    def attention(self, model: Model, batch: Batch, keys: list[int]) -> np.ndarray:
        """Mean attention [1 + alpha, row] of the asked heads to the keys, unscaled and under every factor."""
        edits = self.edits(model, batch, keys)[:: len(self.sets)]
        found = []
        for item in ((), *edits):
            with model.edited(*item):
                sites = self.sets[0]
                pattern = model.capture(batch, "pattern", layers=[s.layer or 0 for s in sites])["pattern"][
                    ..., keys
                ].sum(-1)
            each = [pattern[:, i, list(site.units)] for i, site in enumerate(sites)]
            found.append(torch.cat(each, 1).double().mean(1).cpu().numpy())
        return np.stack(found)


def _rescaled(pattern: Tensor, keys: list[int], alpha: float) -> Tensor:
    """`pattern` [row, head, key] with the keys multiplied and every row of attention rescaled to sum to what it was."""
    factor = torch.ones(pattern.shape[-1], dtype=pattern.dtype, device=pattern.device)
    factor[keys] = alpha
    scaled = pattern * factor
    return scaled * pattern.sum(-1, keepdim=True) / scaled.sum(-1, keepdim=True).clamp_min(1e-30)


def _table(
    base: np.ndarray, under: np.ndarray, attention: np.ndarray, alphas: Sequence[float], together: np.ndarray, seed: int
) -> xr.Dataset:
    """`base` [row], `under` [alpha, set, row] whether the answer wins; `attention` [1 + alpha, row]."""
    share = under.mean(-1)
    low, high = bootstrap_mean(under[:, 0].T, together, seed=seed)
    moved = np.abs(share - base.mean())
    p = permutation_p(moved[:, 0], moved[:, 1:].T) if share.shape[1] > 1 else np.full(len(share), np.nan)
    lost = ~base
    flips = under[..., lost].mean(-1) if lost.any() else np.full(share.shape, np.nan)
    columns = {
        "score": share[:, 0],
        "low": low,
        "high": high,
        "control": _mean(share[:, 1:]),
        "p": p,
        "q": q_values(p) if np.isfinite(p).all() else p,
        "flips": flips[:, 0],
        "flips_control": _mean(flips[:, 1:]),
        "attention": attention[1:].mean(-1),
    }
    data = xr.Dataset({name: ("alpha", column) for name, column in columns.items()}, coords={"alpha": list(alphas)})
    data.attrs |= {
        "unscaled": float(base.mean()),
        "n_lost": int(lost.sum()),
        "attention_unscaled": float(attention[0].mean()),
    }
    return data.assign(each=(("alpha", "row"), under[:, 0]), unscaled_each=("row", base))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the second axis; NaN where it is empty."""
    return values.mean(1) if values.shape[1] else np.full(len(values), np.nan)


def _changed(model: Model, neutral: Keyed, scaling: _Scaling) -> np.ndarray:
    """Whether the model's first choice changes, [alpha, set, row]."""
    batch = model.encode(neutral.texts)
    found = np.zeros((len(scaling.alphas), len(scaling.sets), len(batch)))
    for rows, keys in same_keys(batch, neutral.keys):
        part = batch.select(rows)
        chosen = model.logits(part).argmax(-1)
        kept = sweep(model, part, scaling.edits(model, part, keys), right(chosen.cpu()))
        found[..., rows] = 1 - kept.values.reshape(*found.shape[:2], len(rows))
    return found


def _wrong_way(attention: np.ndarray, scaling: _Scaling) -> tuple[str, ...]:
    """A warning for the factors under which the attention moved against them."""
    said = []
    for alpha, under in zip(scaling.alphas, attention[1:], strict=True):
        against = (under - attention[0]) * np.sign(alpha - 1) < -1e-6
        if against.any():
            way = "lowered" if alpha > 1 else "raised"
            said.append(
                f"direction: multiplying {scaling.variant} by {alpha:g} {way} the attention in {int(against.sum())} of "
                f"{len(against)} rows, as scores below 0 do; read the curve the other way round or use variant='prob'"
            )
    return tuple(said)
