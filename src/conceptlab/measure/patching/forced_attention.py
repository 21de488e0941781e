"""Force chosen heads to attend where they should: how often the right answer wins then.

At the last position all keys but the wanted ones are hidden from the heads before softmax, so that the wanted ones take all the
attention (one key: exactly 1; several: they share it as before). Source: Merullo et al. 2024, Circuit Component Reuse Across
Tasks, who put the attention of inhibition heads on the wrong colours and repair a task. Departure: they spread it evenly.
Control: random sets of as many heads outside `avoid`, forced to the same keys; p over them. `watched` heads, downstream say, are
not forced: how much they then attend to keys of their own tells whether what was forced reaches them.
Cost: a sweep of sets x (1 + n_random) edits of the last position, and as many recorded runs as sets where heads are watched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.effects.unit_effects import random_sets
from conceptlab.measure.patching.attention_rescale import Keyed, same_keys
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.metric import logit_diff
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "forced attention",
    "paper": "Merullo et al. 2024, Circuit Component Reuse Across Tasks in Transformer Language Models",
    "tags": ["patching", "attention", "heads"],
    "takes": "a model, texts with key positions, two answers, named sets of heads",
    "returns": "Scores",
    "cost": "a sweep of sets x (1 + random sets) edits of the last position",
}
Sets = Mapping[str, Sequence[Site]]


@dataclass(frozen=True, eq=False)
class Watched:
    """Heads whose attention from the last position to `keys` [row][...] is read while others are forced."""

    heads: Sequence[Site]
    keys: Sequence[Sequence[int]]


def forced_attention(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    prompts: Keyed,
    answers: Sequence[int],
    distractors: Sequence[int],
    sets: Sets,
    *,
    avoid: Sequence[Site] = (),
    watched: Watched | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> Scores:
    """Share of rows where `answers` beat `distractors` (token ids [row]) with each set of heads forced to `prompts.keys`.

    Axis set: `score` the share (`low`, `high` over rows), `control` the mean share under random sets (`control_low`,
    `control_high`: 2.5 and 97.5 % of them), `p` whether the share moves more than under them (two-sided), `q` over sets; `each`
    [set, row], `control_each` [set, row] the mean over random sets, `unforced_each` [row]; with `watched` its mean attention
    `watched` and `watched_control` (under the first random set), and the attribute `watched_unforced`. Attribute `unforced`: the
    share as it is. Raises InputError for empty sets, rows without keys or with keys that do not exist, and where too few heads
    are left to draw from; SiteError where the model has no attention to edit.
    """
    if n_random < 1:
        raise InputError(f"n_random={n_random} leaves nothing to compare with; give at least 1")
    batch, before = model.encode(prompts.texts), model.forwards
    _check_keys(batch, prompts.keys, "texts")
    chosen = _chosen(model, sets, avoid, n_random, seed)
    items = [tuple(_hide(batch, prompts.keys, layer, row) for layer, row in _layers(mask)) for mask in chosen]
    metric, n_sets = logit_diff(answers, distractors), len(sets)
    found = sweep(model, batch, items, replace(metric))
    wins = (found.values > 0).reshape(n_sets, 1 + n_random, len(batch))
    data = _table(found.clean > 0, wins, list(sets), seed)
    if watched is not None:
        _check_keys(batch, watched.keys, "watched texts")
        read = [_watch(model, batch, watched, items[i]) for i in (*range(0, len(items), 1 + n_random),)]
        beside = [_watch(model, batch, watched, items[i + 1]) for i in (*range(0, len(items), 1 + n_random),)]
        data = data.assign(watched=("set", read), watched_control=("set", beside))
        data.attrs["watched_unforced"] = _watch(model, batch, watched, ())
    settings = {"n_random": n_random, "sets": {name: [str(h) for h in heads] for name, heads in sets.items()}}
    provenance = Provenance(
        "forced attention", len(batch), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), causal="patching", warnings=found.notes,
    )  # fmt: skip
    return Scores(data, provenance)


def _check_keys(batch: Batch, keys: Sequence[Sequence[int]], what: str) -> None:
    if len(keys) != len(batch) or not all(len(own) for own in keys):
        raise InputError(
            f"{len(keys)} lists of key positions came for {len(batch)} {what}; give each at least one position"
        )
    list(same_keys(batch, keys))  # refuses positions that do not exist


def _chosen(model: Model, sets: Sets, avoid: Sequence[Site], n_random: int, seed: int) -> np.ndarray:
    """[set and its random ones, layer, head]: every set, then `n_random` random ones of its size."""
    layers = model.layers_with("pattern")
    model.tap("pattern", layers[0] if layers else 0)  # says why, where no layer has it
    empty = [name for name, heads in sets.items() if not heads]
    if empty or not sets:
        raise InputError(
            f"the set {empty[0]!r} is empty; name at least one head" if empty else "no set of heads was given"
        )
    masks = {name: _mask(model, heads) for name, heads in sets.items()}
    closed = (
        np.any([_mask(model, avoid), *masks.values()], axis=0) | ~np.isin(np.arange(model.n_layers), layers)[:, None]
    )
    found = []
    for number, mask in enumerate(masks.values()):
        size = int(mask.sum())
        if size > (~closed).sum():
            raise InputError(f"a set of {size} heads leaves only {int((~closed).sum())} others; name smaller sets")
        found += [mask[None], random_sets(size, mask.shape, n_random, seed + number, avoid=closed)]
    return np.concatenate(found)


def _mask(model: Model, heads: Sequence[Site]) -> np.ndarray:
    mask = np.zeros((model.n_layers, model.n_heads), dtype=bool)
    for head in heads:
        layer = -1 if head.layer is None else head.layer
        if not 0 <= layer < model.n_layers or not head.units or any(not 0 <= u < model.n_heads for u in head.units):
            raise InputError(
                f"{head} names no head; the model has layers 0 to {model.n_layers - 1} with heads 0 to {model.n_heads - 1}"
            )
        mask[layer, list(head.units)] = True
    return mask


def _layers(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    return [(layer, row) for layer, row in enumerate(mask) if row.any()]


def _hide(batch: Batch, keys: Sequence[Sequence[int]], layer: int, heads: np.ndarray) -> Edit:
    """Every key but the wanted ones, hidden from the last position of every row."""
    hidden = []
    for length, own in zip(batch.lengths, keys, strict=True):
        kept = {k + length if k < 0 else k for k in own}
        hidden.append(tuple(k for k in range(length) if k not in kept))
    site = Site("pattern", layer, tuple(np.flatnonzero(heads).tolist()))
    return Edit(site, "mask", positions="last", keys=tuple(hidden))  # type: ignore[arg-type]


def _watch(model: Model, batch: Batch, watched: Watched, edits: tuple[Edit, ...]) -> float:
    return float(attention_to(model, batch, watched.heads, watched.keys, edits).mean())


def attention_to(
    model: Model, batch: Batch, heads: Sequence[Site], keys: Sequence[Sequence[int]], edits: Sequence[Edit] = ()
) -> np.ndarray:
    """Attention [row, head] from the last position to `keys` [row][...], under edits; heads in the order given."""
    at = [(head.layer or 0, unit) for head in heads for unit in head.units]
    layers = sorted({layer for layer, _ in at})
    found = np.zeros((len(batch), len(at)))
    for rows, own in same_keys(batch, keys):
        some = [_of_rows(edit, rows) for edit in edits]
        with model.edited(*some):
            pattern = model.capture(batch.select(rows), "pattern", layers=layers)["pattern"]
        paid = torch.stack([pattern[:, layers.index(layer), unit][..., own].sum(-1) for layer, unit in at], 1)
        found[rows] = paid.double().cpu().numpy()
    return found


def _of_rows(edit: Edit, rows: list[int]) -> Edit:
    return replace(edit, keys=tuple(edit.keys[row] for row in rows))


def _table(unforced: np.ndarray, wins: np.ndarray, names: list[str], seed: int) -> xr.Dataset:
    """`unforced` [row], `wins` [set, 1 + random, row]."""
    share = wins.mean(-1)
    moved = np.abs(share - unforced.mean())
    p = permutation_p(moved[:, 0], moved[:, 1:].T)
    bounds = np.array([bootstrap_share(row.astype(float), seed=seed) for row in wins[:, 0]])
    low, high = np.quantile(share[:, 1:], [0.025, 0.975], axis=1)
    columns = {
        "score": share[:, 0], "low": bounds[:, 0], "high": bounds[:, 1], "control": share[:, 1:].mean(1),
        "control_low": low, "control_high": high, "p": p, "q": q_values(p),
    }  # fmt: skip
    data = xr.Dataset({name: ("set", column) for name, column in columns.items()}, coords={"set": names})
    data.attrs["unforced"] = float(unforced.mean())
    each = {"each": (("set", "row"), wins[:, 0]), "control_each": (("set", "row"), wins[:, 1:].mean(1))}
    return data.assign(**each, unforced_each=("row", unforced))
