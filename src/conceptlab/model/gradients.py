"""Gradients of a metric at any number of places of a model, from one forward and one backward for a batch of rows.

The model runs as it is; only the stream that enters the first block is made a leaf, so that a frozen model
(`requires_grad_(False)`) has gradients like any other, and parameters get none. A place is handed on as a copy (or as a sum with
zeros, where what is read is no tensor of the model's own), so that its gradient is that of everything that reads it, also in
models that write in place.

Cost: one forward without the unembedding (a metric that names its tokens needs a few dot products) and one backward to the stream
alone; memory: the graph, about layers x rows x pos x (14 d_model + 4 d_mlp) floats.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import InputError, SiteError
from conceptlab.model.batch import Batch
from conceptlab.model.blocks import equal_lengths
from conceptlab.model.instrument import Visit
from conceptlab.model.lens import token_logits
from conceptlab.model.metric import Metric
from conceptlab.model.model import Model
from conceptlab.model.sweep.plan import bytes_per_token, default_budget
from conceptlab.model.tap import Tap
from conceptlab.runs.estimate import size

Place = tuple[
    str, int | None
]  # a site and its layer (None at the ends of the stream), or any name with a tap of its own


@dataclass(frozen=True, eq=False)
class Gradients:
    """`metric` [row] (float64), and by place the `values` and `grads` in the form of the site: [row, pos, ...]."""

    metric: Tensor
    values: Mapping[Place, Tensor]
    grads: Mapping[Place, Tensor]


def gradients(  # noqa: PLR0913 - what runs, what is read
    model: Model,
    batch: Batch,
    metric: Metric,
    places: Sequence[Place] = (),
    *,
    taps: Mapping[Place, Tap] | None = None,
    only_values: Sequence[Place] = (),
    rows: Sequence[int] | None = None,
    embed: Tensor | None = None,
    given: Mapping[Place, Visit] | None = None,
) -> Gradients:
    """d metric[row] / d place for every place of rows of one length (rows do not act on one another).

    `taps` adds places that are no site; `only_values` are read without a gradient. `rows` numbers the rows for the metric
    (default: in order); `embed` [row, pos, d_model] takes the place of the stream that enters the first block, and is then what
    the gradient of ("embed", None) is at; `given` changes what stands at a place before it is read. A place that the metric does
    not depend on has gradient 0. Raises InputError for rows of unequal length, a metric of other rows, and one that is NaN.
    Without places it is one plain forward.
    """
    equal_lengths(batch)
    rows = range(len(batch)) if rows is None else rows
    source = torch.as_tensor(list(rows), device=model.device)
    ends = _end_of(model, metric)
    written: list[Place] = list(dict.fromkeys([*places, *([] if ends[0] == "logits" else [ends])]))
    watch = _Watch(embed)
    visits = [(model.tap("embed"), None, True, watch.leaf)] if places or embed is not None else []
    visits += [(_tap(model, place, taps), place[1], True, change) for place, change in (given or {}).items()]
    visits += [(tap := _tap(model, place, taps), place[1], True, watch.place(place, tap)) for place in written]
    read = [place for place in only_values if place not in written]
    visits += [(_tap(model, place, taps), place[1], False, watch.reader(place)) for place in read]
    with _recording_gradients(bool(places)), model.instrument.visiting(visits):  # type: ignore[arg-type]
        logits = _forward(
            model, batch, ends, max((layer or 0 for _, layer in (ends, *places, *only_values)), default=0)
        )
        found = _value(model, metric, watch.live[ends] if logits is None else logits, source, lens=logits is None)
        if not bool(torch.isfinite(found).all()):
            row = int((~torch.isfinite(found)).nonzero()[0, 0])
            raise InputError(
                f"{metric.name} of row {list(rows)[row]} is not a finite number; look at the model's own logits first"
            )
        wanted = [watch.live[place] for place in places]
        grads = torch.autograd.grad(found.sum(), wanted, allow_unused=True) if wanted else ()
    watch.unchanged(model)
    zeros = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads, strict=True)]
    return Gradients(found.detach(), watch.values, dict(zip(places, zeros, strict=True)))


def in_groups(
    model: Model, batch: Batch, budget_bytes: int | None, *, per_token: int, copies: int = 1
) -> list[list[int]]:
    """Rows of one length together, as many as the budget holds of `copies` graphs and `per_token` further bytes a token.

    Raises InputError where not even one row fits.
    """
    budget = default_budget() if budget_bytes is None else budget_bytes
    token = copies * model.n_layers * bytes_per_token(model) + per_token
    groups = []
    for length in sorted(set(batch.lengths)):
        if length * token > budget:
            raise InputError(
                f"a memory budget of {size(budget)} is too small: one row of {length} tokens needs {size(length * token)}"
            )
        alike = [row for row, n in enumerate(batch.lengths) if n == length]
        most = max(1, budget // (length * token))
        groups += [alike[i : i + most] for i in range(0, len(alike), most)]
    return groups


def kept_positions(keep: Tensor) -> slice | Tensor:
    """Positions [kept] as a slice where they follow one another, so that taking them copies nothing."""
    first, last = (int(keep[0]), int(keep[-1])) if len(keep) else (0, -1)
    return slice(first, last + 1) if last - first + 1 == len(keep) else keep


class _Watch:
    """Visitors of one forward: `live` tensors are part of the graph, `values` are what stood there."""

    def __init__(self, embed: Tensor | None) -> None:
        self.embed = embed
        self.live: dict[Place, Tensor] = {}
        self.values: dict[Place, Tensor] = {}
        self._versions: dict[Place, int] = {}

    def leaf(self, view: Tensor) -> Tensor:
        given = view.detach() if self.embed is None else self.embed.detach().to(view)
        return given.clone().requires_grad_().clone()

    def place(self, place: Place, tap: Tap) -> Visit:
        def visit(view: Tensor) -> Tensor:
            self.values[place] = view.detach()
            if tap.side == "mid" or tap.scale != 1.0:  # made for the reader: the model goes on with something else
                shift = torch.zeros_like(view, requires_grad=True)
                self.live[place], self._versions[place] = shift, shift._version
                return view + shift
            self.live[place], self._versions[place] = view, view._version
            return view.clone()

        return visit

    def reader(self, place: Place) -> Visit:
        def visit(view: Tensor) -> None:
            self.values[place] = view.detach().clone()

        return visit

    def unchanged(self, model: Model) -> None:
        """Raise SiteError where the model went on to write into a tensor that was kept: its gradient would be another's."""
        for place, tensor in self.live.items():
            if tensor._version != self._versions[place]:
                raise SiteError(
                    f"{model.name} writes into {place[0]} of layer {place[1]} in place, so its gradient cannot be read"
                )


def _tap(model: Model, place: Place, taps: Mapping[Place, Tap] | None) -> Tap:
    return taps[place] if taps and place in taps else model.tap(*place)


@contextmanager
def _recording_gradients(record: bool) -> Iterator[None]:
    with torch.inference_mode(False), torch.set_grad_enabled(record):
        yield


def _end_of(model: Model, metric: Metric) -> Place:
    """The place that the metric is read from: a site, the last stream, or the model's own logits."""
    if metric.site is not None:
        return metric.site.name, metric.site.layer
    if not model.has_logits:
        raise InputError(f"{model.name} has no logits, so {metric.name} cannot be read; use a metric of a site")
    if {"lens", "logits"} & set(model.stack.missing):
        return "logits", None
    return "resid_post", model.n_layers - 1


def _forward(model: Model, batch: Batch, ends: Place, last: int) -> Tensor | None:
    """Run the rows up to block `last`; gives logits [row, pos, d_vocab] where it needs the model's own."""
    ids = torch.tensor(batch.ids, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if ends[0] != "logits":
        model._forward(inputs, stop_after=last)
        return None
    return model._forward(inputs).logits


def _value(model: Model, metric: Metric, given: Tensor, source: Tensor, *, lens: bool) -> Tensor:
    """The metric [row], float64, of streams (or of logits) [row, pos, width]."""
    at = given[:, -1 if metric.position == "last" else int(metric.position)]
    if metric.n_rows is not None and int(source.max()) >= metric.n_rows:
        raise InputError(f"the metric is for {metric.n_rows} rows, and row {int(source.max())} was run")
    if metric.site is not None:
        return metric.of(at.float(), source).double()
    tokens = None if metric.tokens is None else metric.tokens.to(at.device)[source]
    if not lens:
        return metric.of(at.float() if tokens is None else at.float().gather(1, tokens), source).double()
    logits = model.lens(at).float() if tokens is None else token_logits(model.stack, at, tokens)
    return metric.of(logits, source).double()
