"""From the last stream to the metric: only the logits that the metric names, at the one position that it reads."""

import torch
from torch import Tensor

from conceptlab.model.instrument import Placed
from conceptlab.model.lens import token_logits
from conceptlab.model.metric import Metric
from conceptlab.model.model import Model
from conceptlab.model.sweep.clean import Kept

MOST_LOGITS = 1 << 25  # held at once


def read_metric(kept: Kept, metric: Metric, ends: Tensor, rows: Tensor, source: Tensor, at: int) -> Tensor:  # noqa: PLR0913
    """The metric [unit] of last streams (or of the values of the metric's site) `ends` [unit, width].

    `rows` [unit] are rows of the kept run, `source` [unit] the same as rows of the whole batch; `at` is the
    position that is read.
    """
    model = kept.run.model
    with torch.no_grad():
        if metric.site is not None:
            return metric.of(ends.float(), source).double()
        if {"lens", "logits"} & set(model.stack.missing):
            return metric.of(_by_the_model(model, kept, ends, rows, at, metric.tokens, source), source).double()
        if metric.tokens is not None:
            return metric.of(token_logits(model.stack, ends, metric.tokens.to(ends.device)[source]), source).double()
        width = model.unembedding.shape[0]
        parts = zip(*(t.split(max(1, MOST_LOGITS // width)) for t in (ends, source)), strict=True)
        return torch.cat([metric.of(model.lens(end).float(), index).double() for end, index in parts])


def _by_the_model(  # noqa: PLR0913 - private half of read_metric
    model: Model, kept: Kept, ends: Tensor, rows: Tensor, at: int, tokens: Tensor | None, source: Tensor
) -> Tensor:
    """Logits where more than a norm and an unembedding follow the last block: the model's own forward with stubs for blocks."""
    from conceptlab.model.replay import stubbed

    last = model.tap("resid_pre", model.n_layers - 1)
    stream = kept.run.streams[-1][rows].clone()
    stream[:, at] = ends
    visits: list[Placed] = [(last, model.n_layers - 1, True, lambda _: stream)]
    ids = kept.run.ids[rows]
    with stubbed(model, model.n_layers), model.instrument.visiting(visits):
        out = model._forward({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, share=0.0)
    logits = out.logits[:, at].float()
    return logits if tokens is None else logits.gather(1, tokens.to(logits.device)[source])
