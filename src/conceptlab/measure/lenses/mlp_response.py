"""Attention knock-out read at MLP outputs: which sublayers answer to information from chosen tokens, and how they push the targets.

The last position may not attend to the span, in all layers (or a window) and heads; what every MLP (and attention) adds there is
read in the vocabulary, in the full run and in the run without, each with its own run's final norm held fixed. Effect = full -
without: positive where the sublayer promotes the target because of the span. `variant="zero"` takes the pattern's entries out
after softmax and renormalises nothing, so attention also shrinks; `"mask"` hides the keys before softmax.
Source: Yan and Jia 2025, Promote, Suppress, Iterate. Departure: `stream_ratio` reports the final stream's norm without over with,
since a removed sink can break the model.
Control: equally many random other positions of the same row, drawn `n_random` times.
Cost: 1 + spans x (1 + n_random) forwards of the rows.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.studentised import studentised_p
from conceptlab.measure.lenses.targets import target_ids
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.components import SUBLAYERS, component_sites
from conceptlab.model.frozen_end import freeze_end
from conceptlab.model.model import Texts
from conceptlab.model.spans import Spans, complete_spans, random_spans, same_length_groups
from conceptlab.results import Edit, Provenance, Scores
from conceptlab.results.site import Site

CARD = {
    "name": "knock-out read at MLP outputs",
    "paper": "Yan and Jia 2025, Promote, Suppress, Iterate",
    "tags": ["lens", "attention", "ablation"],
    "takes": "a model, texts, spans of source tokens, target tokens",
    "returns": "Scores",
    "cost": "1 + spans x (1 + n_random) forwards of the rows",
}
KINDS = ("attn", "mlp")


def mlp_response(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    spans: Spans,
    targets: Sequence[Sequence[int]] | Tensor,
    *,
    target_names: Sequence[str] | None = None,
    variant: Literal["zero", "mask"] = "zero",
    layers: Sequence[int] | None = None,
    groups: Sequence[int | str] | None = None,
    n_random: int = 20,
    max_rows: int = 32,
    seed: int = 0,
) -> Scores:
    """Knock out every span of `spans` {name: positions of each row} for the last position; `targets` [row, target] ids, -1: none.

    Axes layer, kind (attn, mlp), span, target: `score` mean effect in logits before a soft cap (`low`, `high` bootstrap over rows),
    `control` that of random positions, `p` two-sided, `q` over all cells; `full` the sublayer's reading in the full run.
    Axes row, span, target: `final_delta`, `prob_delta` of the model's own output (full - without) and `final_delta_control`.
    `stream_ratio` [span]; `predicted` [row, span], `predicted_control` [row, draw, span] the model's first choice without it.
    Raises InputError for spans or targets that do not fit, or a span with the last token; SiteError where there is no pattern.
    """
    if variant not in ("zero", "mask"):
        raise InputError(f"variant {variant!r} is not known; use zero (after softmax) or mask (before)")
    batch = model.encode(texts)
    ids = target_ids(model, targets, len(batch))
    whole = complete_spans(batch, spans)
    asked = {name: whole[name] for name in spans}
    for row, length in enumerate(batch.lengths):
        for name, rows in asked.items():
            if length - 1 in rows[row]:
                raise InputError(f"row {row}: the span {name!r} holds the last token, which must keep seeing itself")
    before, together, rng = model.forwards, row_groups(groups, len(batch)), np.random.default_rng(seed)
    parts = []
    for rows in same_length_groups(batch, max_rows):
        some = {name: [positions[r] for r in rows] for name, positions in asked.items()}
        parts.append((rows, _group(model, batch.select(rows), some, ids[rows], variant, layers, n_random, rng)))
    found = {k: _joined([(rows, p[k]) for rows, p in parts], len(batch)) for k in parts[0][1]}
    data = _table(
        found, list(spans), list(target_names or map(str, range(ids.shape[1]))), ids.numpy() >= 0, together, seed
    )
    settings = {"variant": variant, "n_random": n_random, "layers": "all" if layers is None else list(layers)}
    provenance = Provenance(
        "knock-out read at MLP outputs", len(batch), seed, model.name, model.revision,
        settings=settings, passes=round(model.forwards - before), causal="ablation",
    )  # fmt: skip
    return Scores(data, provenance)


def knock_out(model: Model, keys: Sequence[Sequence[int]], variant: str, layers: Sequence[int] | None) -> list[Edit]:
    """Edits after which the last position does not attend to `keys` [row][...] in `layers` (None: all with attention)."""
    chosen = model.layers_with("attn_out") if layers is None else layers
    for layer in chosen or (0,):
        model.tap("pattern", layer)
    sites = [Site("pattern", layer) for layer in chosen]
    return [Edit(site, variant, positions="last", keys=[list(k) for k in keys]) for site in sites]  # type: ignore[arg-type]


def _group(  # noqa: PLR0913 - one group of rows of one length
    model: Model,
    batch: Batch,
    spans: dict[str, list[list[int]]],
    ids: Tensor,
    variant: str,
    layers: Sequence[int] | None,
    n_random: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Arrays with the row first; those of spans with axes [row, draw, span, ...], draw 0 the span itself."""
    full = _run(model, batch, ids)
    runs: list[list[dict[str, np.ndarray]]] = []
    for positions in spans.values():
        sets = [positions, *random_spans(batch, positions, n_random, rng)]
        runs.append([_knocked(model, batch, ids, knock_out(model, keys, variant, layers)) for keys in sets])
    found = {"full": full["read"]}
    for name in ("read", "logit", "prob", "norm", "predicted"):
        stacked = np.stack([np.stack([draw[name] for draw in span], 1) for span in runs], 2)
        found[name] = stacked if name == "predicted" else full[name][:, None, None] - stacked
    found["norm"] = 1 - found["norm"] / full["norm"][:, None, None]
    return found


def _knocked(model: Model, batch: Batch, ids: Tensor, edits: list[Edit]) -> dict[str, np.ndarray]:
    with model.edited(*edits):
        acts = _capture(model, batch)
    return _readings(model, acts, ids)


def _run(model: Model, batch: Batch, ids: Tensor) -> dict[str, np.ndarray]:
    return _readings(model, _capture(model, batch), ids)


def _capture(model: Model, batch: Batch):  # noqa: ANN202
    sites = component_sites(model, "sublayer")
    return model.capture(batch, sites, max_tokens=len(batch) * max(batch.lengths))


@torch.no_grad()
def _readings(model: Model, acts, ids: Tensor) -> dict[str, np.ndarray]:  # noqa: ANN001
    """`read` [row, layer, kind, target] (sublayers); `logit`, `prob` [row, target], `norm`, `predicted` [row] of the end."""
    final = acts.at("resid_post", model.n_layers - 1)
    known = ids.clamp_min(0)
    directions = freeze_end(model, final).directions(known)
    read = torch.full((len(final), model.n_layers, len(KINDS), ids.shape[1]), torch.nan, dtype=torch.float64)
    for site, short in SUBLAYERS.items():
        for layer in acts.layers.get(site, ()) if short in KINDS else ():
            part = acts.at(site, layer).double()
            read[:, layer, KINDS.index(short)] = torch.einsum("rd,rtd->rt", part, directions.to(part.device)).cpu()
    logits = model.lens(final).double()
    wanted = known.to(logits.device)
    arrays = {
        "read": read,
        "logit": logits.gather(1, wanted),
        "prob": logits.softmax(-1).gather(1, wanted),
        "norm": final.double().norm(dim=-1),
        "predicted": logits.argmax(-1),
    }
    return {name: value.cpu().numpy() for name, value in arrays.items()}


def _joined(parts: list[tuple[list[int], np.ndarray]], n_rows: int) -> np.ndarray:
    whole = np.zeros((n_rows, *parts[0][1].shape[1:]), dtype=parts[0][1].dtype)
    for rows, values in parts:
        whole[rows] = values
    return whole


def _table(
    found: dict[str, np.ndarray], spans: list[str], names: list[str], known: np.ndarray, together: np.ndarray, seed: int
) -> xr.Dataset:
    """`read` comes as [row, draw, span, layer, kind, target]; means are over the rows that have the target."""
    there = known[:, None, None, None, None]
    effect = np.moveaxis(np.where(there, found["read"], np.nan), 2, 4)  # [row, draw, layer, kind, span, target]
    mean = np.nanmean(effect, 0)
    score, null = mean[0], mean[1:]
    low, high = np.zeros(score.shape), np.zeros(score.shape)
    for t in range(score.shape[-1]):
        low[..., t], high[..., t] = bootstrap_mean(effect[known[:, t], 0, ..., t], together[known[:, t]], seed=seed)
    p = studentised_p(np.nan_to_num(score), np.nan_to_num(null)) if len(null) else np.ones(score.shape)
    by = ("layer", "kind", "span", "target")
    row = ("row", "span", "target")
    logit, prob = (np.where(known[:, None, None], found[name], np.nan) for name in ("logit", "prob"))
    data = {
        "score": (by, score), "low": (by, low), "high": (by, high),
        "control": (by, null.mean(0) if len(null) else np.full(score.shape, np.nan)),
        "p": (by, p), "q": (by, q_values(p.ravel()).reshape(p.shape)),
        "full": (("layer", "kind", "target"), np.nanmean(np.where(known[:, None, None], found["full"], np.nan), 0)),
        "each": (("row", *by), effect[:, 0]),
        "final_delta": (row, logit[:, 0]), "prob_delta": (row, prob[:, 0]),
        "final_delta_control": (row, logit[:, 1:].mean(1) if len(null) else np.full(logit[:, 0].shape, np.nan)),
        "stream_ratio": ("span", found["norm"][:, 0].mean(0)),
        "predicted": (("row", "span"), found["predicted"][:, 0]),
        "predicted_control": (("row", "draw", "span"), found["predicted"][:, 1:]),
    }  # fmt: skip
    n_layers = score.shape[0]
    return xr.Dataset(
        data, coords={"layer": list(range(n_layers)), "kind": list(KINDS), "span": spans, "target": names}
    )
