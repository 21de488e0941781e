"""Token Lens: what the attention of one position brings from chosen source tokens, read in the vocabulary.

For a span Q of source positions, z_Q = sum over j in Q of pattern[query, j] v[j] in every head; through W_O (and a norm after
the sublayer, held at the real run) it is the part of the attention update that comes from Q; the end of the model, held at the
final stream of the query, reads it. Spans cover every position once, so that they add up to the attention's contribution
without its bias. Source: Yan and Jia 2025, Promote, Suppress, Iterate. Departure: the first token (often a sink) and the last
one are spans of their own, so that neither hides in the rest.
Control: the same with the values permuted over the positions of the row, the pattern kept; rows of one group are permuted alike.
Cost: two forwards of the rows, one of which forms patterns; memory rows x keys x heads x targets a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.studentised import studentised_p
from conceptlab.measure.lenses.lens_pass import token_chunks
from conceptlab.measure.lenses.targets import target_ids
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.components import final_stream
from conceptlab.model.frozen_end import FrozenEnd, freeze_end
from conceptlab.model.model import Texts
from conceptlab.model.output_map import OutputMap, output_map
from conceptlab.model.spans import Spans, complete_spans, same_length_groups
from conceptlab.numerics.token_ranks import ranks
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "token lens",
    "paper": "Yan and Jia 2025, Promote, Suppress, Iterate",
    "tags": ["lens", "attention", "logits"],
    "takes": "a model, texts, spans of source tokens, target tokens",
    "returns": "Scores",
    "cost": "two forwards of the rows, one with patterns",
}


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows of one length: `masks` [span, row, key], the frozen `end`, `targets` [row, target], `orders` [draw, row, key]."""

    masks: Tensor
    end: FrozenEnd
    targets: Tensor
    orders: Tensor


def token_lens(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    spans: Spans,
    targets: Sequence[Sequence[int]] | Tensor,
    *,
    target_names: Sequence[str] | None = None,
    groups: Sequence[int | str] | None = None,
    per_head: bool = False,
    n_random: int = 50,
    max_rows: int = 32,
    seed: int = 0,
) -> Scores:
    """Read the last position. `spans` {name: positions of each row}; `targets` [row, target] token ids (-1: none in this row).

    Axes layer, span, target: `score` mean logit before a soft cap (`low`, `high` bootstrap over rows), `control` with permuted
    values, `p` two-sided, `q` over all cells, `each` [row, ...] the rows (NaN without a target), `centred` the same less the
    vocabulary's mean. `rank` [row, layer, span, target]; of the sum over layers `total` (centred) and `total_rank` [row, span,
    target]; with `per_head` `heads` [layer, head, span, target]. Raises SiteError where attention has no readable pattern.
    """
    batch = model.encode(texts)
    ids = target_ids(model, targets, len(batch))
    every = complete_spans(batch, spans)
    layers = _layers(model)
    before = model.forwards
    together = row_groups(groups, len(batch))
    parts: list[tuple[list[int], dict[str, np.ndarray]]] = []
    for rows in same_length_groups(batch, max_rows):
        orders = _orders(together[rows], batch.lengths[rows[0]], n_random, seed)
        parts.append(
            (rows, _read_group(model, batch.select(rows), layers, _masks(every, rows, batch), ids[rows], orders))
        )
    found = _joined(parts, len(batch))
    names = list(target_names or map(str, range(ids.shape[1])))
    data = _table(found, layers, list(every), names, ids.numpy() >= 0, together, seed, per_head)
    provenance = Provenance(
        "token lens", len(batch), seed, model.name, model.revision,
        settings={"n_random": n_random, "spans": list(every)}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def _layers(model: Model) -> tuple[int, ...]:
    """Layers with attention; each must have a pattern."""
    layers = model.layers_with("attn_out")
    for layer in layers or (0,):
        for site in ("attn_out", "pattern", "v", "z"):
            model.tap(site, layer)
    return layers


def _orders(together: np.ndarray, n_keys: int, n_random: int, seed: int) -> np.ndarray:
    """Permutations of the positions [draw, row, key], the same for rows of one group."""
    each = [np.random.default_rng((seed, int(group))) for group in together]
    orders = [np.stack([rng.permutation(n_keys) for _ in range(n_random)]) for rng in each if n_random]
    return np.stack(orders, 1) if orders else np.zeros((0, len(together), n_keys), dtype=np.int64)


def _masks(spans: dict[str, list[list[int]]], rows: list[int], batch: Batch) -> Tensor:
    masks = torch.zeros(len(spans), len(rows), batch.lengths[rows[0]])
    for s, positions in enumerate(spans.values()):
        for i, row in enumerate(rows):
            masks[s, i, positions[row]] = 1.0
    return masks


@torch.no_grad()
def _read_group(
    model: Model, batch: Batch, layers: tuple[int, ...], masks: Tensor, targets: Tensor, orders: np.ndarray
) -> dict[str, np.ndarray]:
    n_rows, n_keys = masks.shape[1:]
    whole = model.capture(batch, "v", layers=layers, positions="all", max_tokens=n_rows * n_keys)
    acts = model.capture(batch, ["pattern", "z", "attn_out", "resid_post"], max_tokens=n_rows * n_keys)
    final = final_stream(model, acts)
    known = targets.clamp_min(0)
    group = _Group(masks.to(final.device), freeze_end(model, final), known, torch.from_numpy(orders))
    found: dict[str, list[np.ndarray]] = {}
    total = final.new_zeros(n_rows, len(masks), model.d_model, dtype=torch.float32)
    for layer in layers:
        v = whole.at("v", layer).unflatten(0, (n_rows, n_keys))
        through = output_map(model, "z", layer, acts.at("z", layer), acts.at("attn_out", layer))
        update, values = _layer(acts.at("pattern", layer).float(), v.float(), through, group)
        total += update.to(total.device)
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    stacked = {name: np.stack(values, 1) for name, values in found.items()}
    logits, rank, mean = _said(total, group)
    return stacked | {"total": logits - mean.double().numpy()[..., None], "total_rank": rank}


def _layer(pattern: Tensor, v: Tensor, through: OutputMap, group: _Group) -> tuple[Tensor, dict[str, np.ndarray]]:
    """The update of each span [row, span, d_model], and what it says to the targets."""
    v = v.repeat_interleave(pattern.shape[1] // v.shape[2], dim=2)  # each kv head serves its group of query heads
    weight = torch.einsum("rhk,srk->srhk", pattern, group.masks)
    mixed = torch.einsum("srhk,rkhd->rshd", weight, v)
    update = through.after(mixed.flatten(2) @ through.matrix.float())
    logits, rank, mean = _said(update, group)
    # what one key's value would say to a target through one head, whatever the pattern: [row, key, head, target]
    pulled = through.pull(group.end.directions(group.targets)).float().unflatten(-1, (v.shape[2], v.shape[3]))
    said = torch.einsum("rkhd,rthd->rkht", v, pulled.to(v.device))
    heads = torch.einsum("srhk,rkht->rhst", weight, said)
    moved = [
        torch.einsum("srhk,rkht->rst", weight, said[torch.arange(len(said))[:, None], order]) for order in group.orders
    ]
    null = torch.stack(moved, 1) if moved else logits_like(logits)
    arrays = {
        "each": torch.from_numpy(logits),
        "rank": torch.from_numpy(rank),
        "mean": mean,
        "heads": heads,
        "null": null,
    }
    return update, {name: value.double().cpu().numpy() for name, value in arrays.items()}


def logits_like(logits: np.ndarray) -> Tensor:
    """No draws [row, 0, span, target]."""
    return torch.zeros(len(logits), 0, *logits.shape[1:])


def _said(update: Tensor, group: _Group) -> tuple[np.ndarray, np.ndarray, Tensor]:
    """Logits and ranks [row, span, target] of updates [row, span, d_model], and the mean over the vocabulary [row, span]."""
    directions = group.end.directions(group.targets)
    logits = torch.einsum("rsd,rtd->rst", update.double(), directions.to(update.device))
    rank, mean = torch.zeros(logits.shape), torch.zeros(logits.shape[:2])
    for rows in token_chunks(len(update), group.end.unembedding.shape[0] * update.shape[1]):
        some = group.end.select(torch.arange(len(update))[rows])
        every = some.logits(update[rows])
        mean[rows] = every.mean(-1).cpu()
        ids = group.targets[rows][:, None].expand(-1, update.shape[1], -1)
        rank[rows] = ranks(every.flatten(0, 1), ids.flatten(0, 1)).unflatten(0, every.shape[:2]).float().cpu()
    return logits.cpu().numpy(), rank.numpy(), mean


def _joined(parts: list[tuple[list[int], dict[str, np.ndarray]]], n_rows: int) -> dict[str, np.ndarray]:
    """Groups back in the order of the rows."""
    found = {}
    for name, like in parts[0][1].items():
        found[name] = np.zeros((n_rows, *like.shape[1:]))
        for rows, values in parts:
            found[name][rows] = values[name]
    return found


def _table(  # noqa: PLR0913 - one table
    found: dict[str, np.ndarray],
    layers: tuple[int, ...],
    spans: list[str],
    names: list[str],
    known: np.ndarray,
    together: np.ndarray,
    seed: int,
    per_head: bool,
) -> xr.Dataset:
    """Means over the rows that have the target."""
    there = known[:, None, None, :]
    each = np.where(there, found["each"], np.nan)
    null = np.nanmean(np.where(there[:, :, None], found["null"], np.nan), 0).swapaxes(0, 1)
    score = np.nanmean(each, 0)
    p = studentised_p(score, null) if len(null) else np.ones(score.shape)
    control = null.mean(0) if len(null) else np.full(score.shape, np.nan)
    low, high = _intervals(each, together, seed)
    by, rows = ("layer", "span", "target"), ("row", "layer", "span", "target")
    data = {
        "score": (by, score), "low": (by, low), "high": (by, high), "control": (by, control),
        "p": (by, p), "q": (by, q_values(p.ravel()).reshape(p.shape)),
        "each": (rows, each), "rank": (rows, np.where(there, found["rank"], np.nan)),
        "centred": (by, np.nanmean(each - found["mean"][..., None], 0)),
        "total": (("row", "span", "target"), np.where(known[:, None], found["total"], np.nan)),
        "total_rank": (("row", "span", "target"), np.where(known[:, None], found["total_rank"], np.nan)),
    }  # fmt: skip
    if per_head:
        heads = np.where(known[:, None, None, None], found["heads"], np.nan)
        data["heads"] = (("layer", "head", "span", "target"), np.nanmean(heads, 0))
    return xr.Dataset(data, coords={"layer": list(layers), "span": spans, "target": names})


def _intervals(each: np.ndarray, together: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bootstrap over rows, target by target, since rows may lack one."""
    low, high = np.zeros(each.shape[1:]), np.zeros(each.shape[1:])
    for t in range(each.shape[-1]):
        rows = np.isfinite(each[:, 0, 0, t])
        low[..., t], high[..., t] = bootstrap_mean(each[rows, ..., t], together[rows], seed=seed)
    return low, high
