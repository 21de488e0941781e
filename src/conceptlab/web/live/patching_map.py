"""The patching map of a pair of prompts, layer by layer, and what one of its patches changes downstream.

The map is `measure.patching.activation_patching` of one layer at a time, so that other clients are served between two layers:
scores are those of one call, the random patches those of one call a layer, and q is taken over all cells. Downstream (`downstream`)
one patch is run again with everything recorded: how far the stream moves at every later layer and token, as a share of the way from
this prompt to the other one (1: as far as the whole prompt's change moved it), beside a random patch of the same size.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.measure.lenses.targets import exact_token_texts
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.measure.patching.pairs import make_pairs, random_like
from conceptlab.model import Model
from conceptlab.results import Edit, Site
from conceptlab.runs.estimate import duration
from conceptlab.web.jobs import Said, job_progress
from conceptlab.web.live.pair_tasks import PairAsked, pair_metric

Place = Literal["stream", "attention", "mlp", "heads"]
SITES: dict[str, tuple[str, Literal["position", "head"]]] = {
    "stream": ("resid_pre", "position"), "attention": ("attn_out", "position"), "mlp": ("mlp_out", "position"),
    "heads": ("z", "head"),
}  # fmt: skip
COLUMNS = ("score", "low", "high", "control", "p", "q")
TINY = 1e-6  # of the stream's norm: what two prompts share differs by rounding only
TOP = 8
Steps = Generator[Said | None, None, dict[str, Any]]


@dataclass(frozen=True)
class MapAsked:
    """A map: the pair, where it is patched, and which prompt is changed."""

    pair: PairAsked
    place: Place = "stream"
    direction: Literal["noising", "denoising"] = "denoising"
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One cell of a map: `at` is the token, or the head."""

    layer: int
    at: int


def patching_map(model: Model, asked: MapAsked) -> Steps:
    """The map: `layers`, `across`, and the columns [layer][across]. Raises as the method."""
    pairs = asked.pair.pairs(model)
    metric = pair_metric(model, pairs)
    site, by = SITES[asked.place]
    both = make_pairs(model, pairs.clean, pairs.corrupted, asked.direction)
    layers, n_across = model.layers_with(site), both.n_pos if by == "position" else model.n_heads
    if not layers:
        model.tap(site, 0)  # says why
    cells = len(layers) * n_across * len(pairs.clean)
    yield Said(0.0, f"{cells:,} patches, each beside a random one of the same size")
    found, begun = [], time.perf_counter()
    for i, layer in enumerate(layers):
        progress = job_progress(i / len(layers), (i + 1) / len(layers))
        found.append(
            activation_patching(
                model, pairs.clean, pairs.corrupted, metric, site=site, by=by, layers=[layer], direction=asked.direction,
                seed=asked.seed, progress=progress,
            )
        )  # fmt: skip
        left = (time.perf_counter() - begun) / (i + 1) * (len(layers) - i - 1)  # higher layers take less
        yield Said((i + 1) / len(layers), f"layer {layer} is done; at most {duration(left)} more")
    columns = {name: np.concatenate([np.atleast_2d(one[name].values) for one in found]) for name in COLUMNS}
    columns["q"] = q_values(columns["p"].reshape(-1)).reshape(columns["p"].shape)
    first = found[0]
    return {
        "name": pairs.name, "n": len(pairs.clean), "place": asked.place, "site": site, "direction": asked.direction,
        "metric": metric.name, "layers": list(layers), "by": by,
        "clean": float(first["clean"].values.mean()), "corrupted": float(first["corrupted"].values.mean()),
        "across": _tokens(model, both.base.ids[0], both.donor.ids[0]) if by == "position" else _heads(n_across),
        "pair": [column[0] for column in (pairs.clean, pairs.corrupted, pairs.answer, pairs.distractor)],
        "warnings": sorted({w for one in found for w in one.provenance.warnings}),
        **{name: values.tolist() for name, values in columns.items()},
    }  # fmt: skip


def _tokens(model: Model, base: tuple[int, ...], donor: tuple[int, ...]) -> list[dict[str, Any]]:
    """The first row's tokens, and those of the other prompt where they differ."""
    texts = [exact_token_texts(model, np.array(ids)).tolist() for ids in (base, donor)]
    return [{"text": a, "other": b if a != b else None} for a, b in zip(*texts, strict=True)]


def _heads(n: int) -> list[dict[str, Any]]:
    return [{"text": f"H{i}", "other": None} for i in range(n)]


@torch.no_grad()
def downstream(model: Model, asked: MapAsked, cell: Cell) -> Steps:
    """What patching one cell of the first pair changes: `moved` and `control` [layer][token], and what is predicted then."""
    pairs = asked.pair.pairs(model)
    metric = pair_metric(model, pairs)
    site, by = SITES[asked.place]
    both = make_pairs(model, pairs.clean[:1], pairs.corrupted[:1], asked.direction)
    n_pos, size = both.n_pos, both.n_pos if by == "position" else model.n_heads
    model.tap(site, cell.layer)
    if not 0 <= cell.at < size:
        raise InputError(f"there are {'tokens' if by == 'position' else 'heads'} 0 to {size - 1}; {cell.at} was asked")
    yield Said(0.1, "both prompts")
    base, donor = both.donated(site, (cell.layer,))
    ends = [_run(model, batch, ()) for batch in (both.base, both.donor)]
    values = {"patched": donor, "random": random_like(base, donor, torch.Generator().manual_seed(asked.seed))}
    runs = {}
    for name, value in values.items():
        yield Said(0.5, f"the {name} run")
        runs[name] = _run(model, both.base, (_edit(site, by, cell, value[:, 0], n_pos),))
    yield None
    whole = (ends[1][0] - ends[0][0]).norm(dim=-1)
    rounding = TINY * ends[0][0].norm(dim=-1)
    row = torch.tensor([0])
    tokens = metric.tokens[:1] if metric.tokens is not None else torch.zeros(1, 2, dtype=torch.long)
    named = {"unchanged": ends[0], "patched": runs["patched"], "random": runs["random"], "other prompt": ends[1]}
    return {
        "layer": cell.layer, "at": cell.at, "place": asked.place, "by": by, "site": site, "direction": asked.direction,
        "layers": list(range(model.n_layers)), "across": _tokens(model, both.base.ids[0], both.donor.ids[0]),
        "moved": _share(runs["patched"][0] - ends[0][0], whole, rounding),
        "control": _share(runs["random"][0] - ends[0][0], whole, rounding),
        "predicted": [
            {"run": name, "metric": float(metric.of(logits[None, tokens[0]], row)[0]), "top": _top(model, logits)}
            for name, (_, logits) in named.items()
        ],
        "metric": metric.name, "answer": pairs.answer[0], "distractor": pairs.distractor[0],
    }  # fmt: skip


def _edit(site: str, by: str, cell: Cell, value: Tensor, n_pos: int) -> Edit:
    """The patch of a cell of one row; `value` [token, (head,) d] is that of all its tokens."""
    if by == "position":
        return Edit(Site(site, cell.layer), "set", value[cell.at : cell.at + 1], positions=(cell.at,))
    return Edit(
        Site(site, cell.layer, (cell.at,)), "set", value[:, cell.at : cell.at + 1], positions=tuple(range(n_pos))
    )


def _run(model: Model, batch: Any, edits: tuple[Edit, ...]) -> tuple[Tensor, Tensor]:
    """Streams after every block [layer, token, d_model] and the last token's logits [d_vocab] of one row."""
    with model.edited(*edits):
        acts = model.capture(batch, ["resid_post", "logits"], positions="all")
    return acts["resid_post"].float().transpose(0, 1), acts["logits"][-1].float()


def _share(change: Tensor, whole: Tensor, rounding: Tensor) -> list[list[float | None]]:
    """Length of the change over the whole way; None where the two prompts do not differ."""
    share = torch.where(whole > rounding, change.norm(dim=-1) / whole, torch.nan)
    return [[None if np.isnan(v) else v for v in line] for line in share.tolist()]


def _top(model: Model, logits: Tensor) -> list[dict[str, Any]]:
    """The most likely next tokens."""
    probs, ids = logits.softmax(-1).topk(min(TOP, len(logits)))
    texts = exact_token_texts(model, ids.cpu().numpy()).tolist()
    return [{"id": i, "text": t, "prob": p} for i, t, p in zip(ids.tolist(), texts, probs.tolist(), strict=True)]
