"""Attention knock-out: cut attention from chosen queries to chosen keys in a window of layers, and see what the answer loses.

`zero` puts the attention to 0 after softmax and leaves the rest (as Promote, Suppress, Iterate does); `mask` hides the keys
before softmax, so that the others take their share (Geva et al. 2023). Score: what the metric loses, mean over rows.
Control: as many random other positions of the same row, in the same window; p asks whether the span does more, by over 1 % of the
metric's mean size (less is of no interest; span and random positions change places in random rows), q is over all windows and
spans.
Cost: windows x spans x (1 + n_random) replays of the queries' tokens; where only the last position asks, one token each.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.floor import FLOOR
from conceptlab.evidence.swapped_rows import swapped_rows_p
from conceptlab.model import Batch, Model
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.spans import random_spans
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "attention knock-out",
    "paper": "Geva et al. 2023, Dissecting Recall of Factual Associations; Yan and Jia 2025, Promote, Suppress, Iterate",
    "tags": ["patching", "attention"],
    "takes": "a model, texts, named spans of keys, a metric",
    "returns": "Scores",
    "cost": "a sweep of windows x spans x (1 + random spans) edits",
}
VARIANTS = ("zero", "mask")
Spans = Mapping[str, Sequence[Sequence[int]]]


def attention_knockout(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    metric: Metric,
    spans: Spans,
    *,
    queries: str | Sequence[int] = "last",
    window: int | None = 1,
    heads: Sequence[int] = (),
    variant: str = "zero",
    n_random: int = 4,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """What each span of keys brings to the answer, by window of layers; axes (layer, span).

    `spans` {name: real-token positions [row][...]}; `window` layers are cut together around `layer` (None: all at once);
    `heads` limits the heads. Returns `score` (loss of the metric), `low`, `high`, `control`, `p`, `q`.
    Raises InputError for an unknown variant, a span that is empty or leaves its row, and as `sweep` does.
    """
    batch, layers = model.encode(texts), model.layers_with("pattern")
    if not layers:
        model.tap("pattern", 0)  # says why no layer has it
    _check(batch, spans, variant, window)
    windows = _windows(layers, window)
    rng = np.random.default_rng(seed)
    drawn = {name: random_spans(batch, rows, n_random, rng) for name, rows in spans.items()}
    items, before = [], model.forwards
    for chosen in windows.values():
        for name, rows in spans.items():
            for keys in (rows, *drawn[name]):
                items.append(tuple(_cut(layer, heads, variant, queries, keys) for layer in chosen))
    found = sweep(model, batch, items, metric, progress=progress)
    floor = FLOOR * float(np.abs(found.clean).mean())
    loss = -found.change
    loss = loss.reshape(len(windows), len(spans), 1 + n_random, len(batch))
    provenance = Provenance(
        "attention knock-out", len(batch), seed, model=model.name, revision=model.revision,
        settings={"variant": variant, "window": window, "heads": list(heads), "queries": str(queries), "metric": metric.name},
        passes=round(model.forwards - before), causal="ablation",
    )  # fmt: skip
    return Scores(_table(loss, list(windows), list(spans), floor, seed), provenance)


def _check(batch: Batch, spans: Spans, variant: str, window: int | None) -> None:
    if variant not in VARIANTS:
        raise InputError(f'variant={variant!r} is not known; use "zero" (after softmax) or "mask" (before it)')
    if window is not None and window < 1:
        raise InputError(f"a window of {window} layers cuts nothing; give 1 or more, or None for all layers at once")
    if not spans:
        raise InputError("no span of keys was given; name at least one, {name: positions of each row}")
    for name, rows in spans.items():
        if len(rows) != len(batch):
            raise InputError(f"the span {name!r} has {len(rows)} rows for {len(batch)} texts; give one list a text")
        for row, (at, length) in enumerate(zip(rows, batch.lengths, strict=True)):
            if not at or any(not -length <= p < length for p in at):
                raise InputError(
                    f"row {row}: the span {name!r} names positions {list(at)}, the text has tokens 0 to {length - 1}"
                )


def _windows(layers: Sequence[int], window: int | None) -> dict[int, list[int]]:
    """Layers that are cut together, by the one in the middle (-1: all)."""
    if window is None:
        return {-1: list(layers)}
    return {
        layer: [other for other in layers if -((window - 1) // 2) <= other - layer <= window // 2] for layer in layers
    }


def _cut(
    layer: int, heads: Sequence[int], variant: str, queries: str | Sequence[int], keys: Sequence[Sequence[int]]
) -> Edit:
    listed = tuple(tuple(int(p) for p in row) for row in keys)
    return Edit(Site("pattern", layer, tuple(heads)), variant, positions=queries, keys=listed)  # type: ignore[arg-type]


def _table(loss: np.ndarray, windows: list[int], spans: list[str], floor: float, seed: int) -> xr.Dataset:
    """Means over rows of `loss` [window, span, 1 + random, row]."""
    real, random = loss[:, :, 0], loss[:, :, 1:].mean(2)
    low, high = bootstrap_mean(np.moveaxis(real, -1, 0), seed=seed)
    p = swapped_rows_p(np.moveaxis(real, -1, 0), np.moveaxis(random, -1, 0), floor=floor, seed=seed)
    dims = ("layer", "span")
    columns = {
        "score": real.mean(-1), "low": low, "high": high, "control": random.mean(-1), "p": p,
        "q": q_values(p.reshape(-1)).reshape(p.shape),
    }  # fmt: skip
    return xr.Dataset({n: (dims, v) for n, v in columns.items()}, coords={"layer": windows, "span": spans})
