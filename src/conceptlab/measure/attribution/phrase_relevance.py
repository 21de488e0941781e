"""Which words or phrases of a text an answer rests on: the embeddings of a span are the relevant part, all else is the context.

Local attribution by contextual decomposition (Hsu et al. 2025; rules and blind spot in `contextual_decomposition.py`). A span is
split off the stream that enters block 0 (learned positions included) and followed to the logits as one source, so words that stand
in for each other are judged together, which a gradient cannot do where something saturates. Beside each score: other spans of the
same length in the same text, and gradient x input of the same span (one backward pass, the first-order reading of the question).

Cost: two forwards for each span (the random ones too; equal spans run once), and one forward and backward of each text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.measure.attribution.contextual_decomposition import check_request
from conceptlab.measure.attribution.removal import rows_by_length
from conceptlab.model.batch import Batch
from conceptlab.model.decomposed import Decomposer, decompose
from conceptlab.model.metric import Metric
from conceptlab.model.split_rules import Rule, halves
from conceptlab.results import Provenance, Scores

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.model.model import Texts

CARD = {
    "name": "phrase relevance (CD-T)",
    "paper": "Hsu et al. 2025, Mechanistic Interpretation through Contextual Decomposition in Transformers",
    "tags": ["attribution", "decomposition", "inputs"],
    "takes": "a model, texts, spans of tokens, a metric of named logits",
    "returns": "Scores",
    "cost": "2 forwards a span and a random span, 1 forward and backward a text",
}

Span = tuple[int, int, int]  # row, first token, one past the last


def phrase_relevance(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    texts: "Texts",
    spans: Sequence[Span],
    metric: Metric,
    *,
    rule: Rule = "fixed",
    n_random: int = 20,
    batch: int = 64,
    seed: int = 0,
) -> Scores:
    """Score `spans` (row, start, stop in real tokens of that row) by what of them arrives at `metric` (`logit`, `logit_diff`).

    Axis `phrase`, with `row`, `start`, `stop`: `score` is the relevant part of the metric, `control` the mean |score| of at most
    `n_random` other spans of that length that do not touch it, `p` their share that is at least as large in size, `q` over phrases;
    `gradient` is gradient x input. NaN where a row has no other span. Attribute `metric`: its mean over rows. A short
    text has few other spans, so a single p is never small there; rank the planted or chosen spans over texts instead.
    Raises InputError for a span outside its row or another kind of metric, SiteError where a block cannot be decomposed.
    """
    check_request(metric, rule, 0)
    held, before = model.encode(texts), model.forwards
    _check_spans(held, spans)
    rng = np.random.default_rng(seed)
    others = [_others(span, held.lengths[span[0]], n_random, rng) for span in spans]
    wanted = sorted({*spans, *(span for drawn in others for span in drawn)})
    scores, gradient, whole = _of_spans(model, held, wanted, metric, rule, batch)
    real = np.array([scores[s] for s in spans])
    null = [np.abs([scores[s] for s in drawn]) for drawn in others]
    p = np.array([float(permutation_p(abs(r), n)) if len(n) else np.nan for r, n in zip(real, null, strict=True)])
    tested, q = np.isfinite(p), np.full(len(p), np.nan)
    q[tested] = q_values(p[tested])
    columns = {
        "score": real,
        "control": np.array([n.mean() if len(n) else np.nan for n in null]),
        "gradient": np.array([gradient[s] for s in spans]),
        "p": p,
        "q": q,
    }
    places = dict(zip(("row", "start", "stop"), np.array(spans).reshape(-1, 3).T, strict=True))
    data = xr.Dataset(
        {name: ("phrase", values) for name, values in {**columns, **places}.items()},
        attrs={"metric": whole},
    )
    settings = {"rule": rule, "n_random": n_random, "n_spans": len(wanted)}
    passes = round(model.forwards - before)
    return Scores(
        data,
        Provenance("phrase_relevance", len(spans), seed, model.name, model.revision, settings=settings, passes=passes),
    )


def windows_like(texts: Batch, spans: Sequence[Span], *, first: int = 1) -> list[Span]:
    """Every span of the same row and length as one of `spans`, from token `first` on: what a phrase is ranked among."""
    found = {
        (row, s, s + stop - start)
        for row, start, stop in spans
        for s in range(first, texts.lengths[row] - stop + start + 1)
    }
    return sorted({*found, *spans})


def rank_phrases(
    model: "Model", texts: "Texts", spans: Sequence[Span], metric: Metric, *, seed: int = 0
) -> tuple[dict[str, np.ndarray], Scores]:
    """Whether each of `spans` has the largest |score|, and the largest |gradient| x input, of all spans of its length in its text.

    Gives {"score": bool [span], "gradient": bool [span], "chance": 1 / spans it is ranked among} and the scores of all spans.
    """
    every = windows_like(model.encode(texts), spans)
    scores = phrase_relevance(model, texts, every, metric, n_random=0, seed=seed)
    table = np.array(every)
    first: dict[str, list[float]] = {"score": [], "gradient": [], "chance": []}
    for row, start, stop in spans:
        same = np.flatnonzero((table[:, 0] == row) & (table[:, 2] - table[:, 1] == stop - start))
        for name in ("score", "gradient"):
            first[name].append(table[same[np.abs(scores[name].values[same]).argmax()], 1] == start)
        first["chance"].append(1 / len(same))
    return {name: np.array(values) for name, values in first.items()}, scores


def _check_spans(texts: Batch, spans: Sequence[Span]) -> None:
    for row, start, stop in spans:
        if not 0 <= row < len(texts) or not 0 <= start < stop <= texts.lengths[row]:
            size = (
                f"row {row} has {texts.lengths[row]} tokens"
                if 0 <= row < len(texts)
                else f"there are {len(texts)} rows"
            )
            raise InputError(f"the span {start} to {stop} of row {row} does not exist: {size}")


def _others(span: Span, n_tokens: int, n_random: int, rng: np.random.Generator) -> list[Span]:
    """Spans of the same row and length that do not touch `span`, drawn without repetition."""
    row, start, stop = span
    size = stop - start
    free = [s for s in range(n_tokens - size + 1) if s + size <= start or s >= stop]
    drawn = rng.permutation(free)[:n_random] if free else []
    return [(row, int(s), int(s) + size) for s in drawn]


def _of_spans(
    model: "Model", texts: Batch, spans: Sequence[Span], metric: Metric, rule: Rule, batch: int
) -> tuple[dict[Span, float], dict[Span, float], float]:
    """Relevance and gradient x input of each span, and the mean of the metric over rows."""
    relevance: dict[Span, float] = {}
    gradient: dict[Span, float] = {}
    whole = np.zeros(len(texts))
    for rows in rows_by_length(texts):
        made = decompose(model, texts.select(rows), rule=rule)
        tokens = metric.tokens[rows]  # type: ignore[index]
        here = [span for span in spans if span[0] in set(rows)]
        place = {row: i for i, row in enumerate(rows)}
        for start in range(0, len(here), batch):
            some = here[start : start + batch]
            at = torch.tensor([place[row] for row, _, _ in some], device=model.device)
            relevant = metric.of(halves(_followed(made, some, at, tokens))[0].double().cpu(), at.cpu())
            relevance |= dict(zip(some, relevant.tolist(), strict=True))
        each, whole[rows] = _gradient_x_input(made, metric, tokens)
        gradient |= {span: float(each[place[span[0]], span[1] : span[2]].sum()) for span in here}
    return relevance, gradient, float(whole.mean())


def _followed(made: Decomposer, spans: Sequence[Span], at: Tensor, tokens: Tensor) -> Tensor:
    """Parts of the logits [2k, t] with the embeddings of each span relevant."""
    stream = made.run.streams[0][at]
    mask = torch.zeros(len(spans), made.run.n_pos, 1, device=stream.device, dtype=stream.dtype)
    for i, (_, start, stop) in enumerate(spans):
        mask[i, start:stop] = 1.0
    stacked = torch.cat([stream * mask, stream * (1 - mask)])
    for layer in range(made.model.n_layers):
        stacked = made.block(layer, stacked, at)
    return made.logits(stacked[:, -1], tokens[at.cpu()])


def _gradient_x_input(made: Decomposer, metric: Metric, tokens: Tensor) -> tuple[Tensor, np.ndarray]:
    """Gradient of the metric times the embedding, summed over coordinates [row, pos], and the metric [row]."""
    run, model = made.run, made.model
    start = run.streams[0].clone().requires_grad_(True)
    with torch.enable_grad():
        stream = start
        for layer in range(model.n_layers):
            stream = run.block(layer, stream)
        logits = model.lens(stream[:, -1]).gather(-1, tokens.to(stream.device))
        values = metric.of(logits, torch.arange(len(tokens)))
        (slope,) = torch.autograd.grad(values.sum(), start)
    model.forwards += 3 * run.n_rows  # a backward pass costs two forwards
    return (slope * start).sum(-1).detach().cpu(), values.detach().double().cpu().numpy()
