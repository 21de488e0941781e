"""Does a model say, expect or encode that a concept has a property? Three evaluators of minimal pairs, by language and negative.

`metalinguistic`: asked which of two sentences makes more sense, the model gives the better one's label more probability (mean of
both orders). `direct`: the property phrase has more log-probability, summed over its tokens, after the acceptable concept.
`neurolinguistic`: a linear probe of the last word's stream tells acceptable from unacceptable sentences; the curve by layer, its
saturation layer (the first with 95 % of the peak) and its peak.
Source: He et al. 2025, XCOMPS; probes as in their earlier work on form and meaning. Departures: all pairs of a property are in one
fold, so that no sentence is in training and test, C by the house's rule for the curve, and the nested choice of the layer for the
one number of the probe.
Control: labels exchanged at random inside pairs; for the probe the same procedure on shuffled labels and a bag of words.
Cost: two forwards a pair for direct and probe together, two longer ones for the question.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.data.concept_pairs import ConceptPair
from conceptlab.errors import InputError
from conceptlab.evidence import make_folds, permuted_labels
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.measure.probing.columns import Problem, correct
from conceptlab.measure.probing.layer_probe import held_out_scores, probe_layers
from conceptlab.model import Batch, Model
from conceptlab.model.answers import first_tokens
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "concept evaluators",
    "paper": "He et al. 2025, XCOMPS",
    "tags": ["probing", "minimal pairs", "multilingual"],
    "takes": "a model, minimal pairs about concepts",
    "returns": "Scores",
    "cost": "four forwards a pair, and probe fits",
}
EVALUATORS = ("metalinguistic", "direct", "neurolinguistic")
QUESTION, LABELS = "Which sentence makes more sense? A: {first}. B: {second}. Answer:", ("A", "B")
SATURATED, CHUNK = 0.95, 256


@dataclass(frozen=True, eq=False)
class Evaluated:
    """`scores` over (language, negative, evaluator), `curve` over (language, negative, layer), and by evaluator without a probe
    the `margins` [pair] in nats: above 0 where it is right."""

    scores: Scores
    curve: Scores
    margins: dict[str, np.ndarray]


def evaluate_pairs(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    pairs: Sequence[ConceptPair],
    *,
    question: str = QUESTION,
    labels: tuple[str, str] = LABELS,
    permutations: int = 20,
    seed: int = 0,
) -> Evaluated:
    """Accuracy of the three evaluators. `question` holds `{first}` and `{second}`, `labels` name the two.

    `scores`: `score`, `low`, `high` (properties drawn again), `control`, `p`, and `n` [language, negative]. `curve`: `score`, `f1`,
    `control`, `control_high` (shuffled labels), and by language and negative `bow` (bag of words), `saturation`, `peak` (places on
    the layer axis, 0 the embedding; NaN where no layer is above shuffled labels). Raises InputError for a question without
    places for the sentences or labels that share their first token, DataError where a cell has too few properties for folds.
    """
    if "{first}" not in question or "{second}" not in question:
        raise InputError(f"the question {question!r} must hold {{first}} and {{second}}, where the sentences go")
    before, cells = model.forwards, _cells(pairs)
    languages = list(dict.fromkeys(language for language, _ in cells))
    negatives = list(dict.fromkeys(negative for _, negative in cells))
    found = {
        key: _one(model, [pairs[i] for i in own], question, labels, permutations, seed) for key, own in cells.items()
    }
    dims = ("language", "negative")
    axes = {
        "scores": ({"evaluator": list(EVALUATORS)}, ("score", "low", "high", "control", "p")),
        "curve": ({"layer": ["embed", *map(str, range(model.n_layers))]}, ("score", "f1", "control", "control_high")),
    }
    single = {"scores": ("n",), "curve": ("bow", "saturation", "peak")}
    tables = {}
    for name, (last, columns) in axes.items():
        (axis, places), *_ = last.items()
        data = {c: ((*dims, axis), _grid(found, languages, negatives, name, c, len(places))) for c in columns}
        data |= {c: (dims, _grid(found, languages, negatives, name, c, 0)) for c in single[name]}
        tables[name] = xr.Dataset(data, coords={"language": languages, "negative": negatives, **last})
    provenance = Provenance(
        "concept evaluators", len(pairs), seed, model.name, model.revision, passes=round(model.forwards - before),
        settings={"question": question, "labels": list(labels), "permutations": permutations},
    )  # fmt: skip
    order = np.argsort(np.concatenate(list(cells.values())))
    margins = {
        name: np.concatenate([cell["margins"][name] for cell in found.values()])[order] for name in EVALUATORS[:2]
    }
    return Evaluated(Scores(tables["scores"], provenance), Scores(tables["curve"], provenance), margins)


def direct_margins(model: Model, pairs: Sequence[ConceptPair]) -> np.ndarray:
    """log P(phrase | acceptable) - log P(phrase | unacceptable), nats [pair]."""
    return _read_pairs(model, pairs)[0]


def metalinguistic_margins(
    model: Model, pairs: Sequence[ConceptPair], question: str = QUESTION, labels: tuple[str, str] = LABELS
) -> np.ndarray:
    """log-odds of the acceptable sentence's label over the other's, mean of both orders [pair]."""
    margin = np.zeros(len(pairs))
    for swap in (False, True):
        texts = []
        for pair in pairs:
            good, bad = pair.sentence(acceptable=True), pair.sentence(acceptable=False)
            texts.append(question.format(first=bad if swap else good, second=good if swap else bad))
        ids = [first_tokens(model, texts, [label] * len(texts)) for label in labels]
        if any(a == b for a, b in zip(*ids, strict=True)):
            raise InputError(f"the labels {labels[0]!r} and {labels[1]!r} share their first token; choose others")
        for start in range(0, len(texts), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = model.logits(texts[rows]).float().cpu()
            first, second = (logits.gather(1, torch.tensor(i[rows])[:, None])[:, 0].numpy() for i in ids)
            margin[rows] += (second - first if swap else first - second) / 2
    return margin


def _cells(pairs: Sequence[ConceptPair]) -> dict[tuple[str, str], list[int]]:
    """Numbers of the pairs of each language and negative."""
    cells: dict[tuple[str, str], list[int]] = {}
    for i, pair in enumerate(pairs):
        cells.setdefault((pair.language, pair.negative_sample_type), []).append(i)
    if not cells:
        raise InputError("no pairs came; give pairs of acceptable and unacceptable sentences")
    return cells


def _grid(found, languages: list[str], negatives: list[str], table: str, column: str, size: int) -> np.ndarray:
    """One column of all cells, NaN where a language has no such negatives."""
    shape = (len(languages), len(negatives)) + ((size,) if size else ())
    values = np.full(shape, np.nan)
    for (language, negative), cell in found.items():
        values[languages.index(language), negatives.index(negative)] = cell[table][column]
    return values


def _one(  # noqa: PLR0913 - private half of the method
    model: Model, pairs: list[ConceptPair], question: str, labels: tuple[str, str], permutations: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """Both tables' columns of one cell."""
    group = np.unique([pair.property for pair in pairs], return_inverse=True)[1]
    direct, (batch, stream) = _read_pairs(model, pairs)
    asked = metalinguistic_margins(model, pairs, question, labels)
    columns: dict[str, list[float]] = {c: [] for c in ("score", "low", "high", "control", "p")}
    for margin in (asked, direct):
        right = np.where(margin == 0, 0.5, margin > 0)
        low, high = bootstrap_share(right, group, seed=seed)
        swapped = np.random.default_rng(seed).integers(0, 2, (99, len(right)))
        control = np.where(swapped == 1, right, 1 - right).mean()
        means = np.bincount(group, right - 0.5) / np.bincount(group)
        for name, value in zip(columns, (right.mean(), low, high, control, sign_flip_p(means, seed=seed)), strict=True):
            columns[name].append(float(value))
    probe, curve = _probe(batch, stream, group, permutations, seed)
    for name, value in zip(columns, probe, strict=True):
        columns[name].append(float(value))
    scores = {c: np.array(v) for c, v in columns.items()} | {"n": np.array(len(pairs))}
    return {"scores": scores, "curve": curve, "margins": dict(zip(EVALUATORS, (asked, direct), strict=False))}


def _read_pairs(model: Model, pairs: Sequence[ConceptPair]) -> tuple[np.ndarray, tuple[Batch, Tensor]]:
    """Direct margins [pair], and the sentences (acceptable first, then unacceptable) with the stream at their last token."""
    texts, spans = [], []
    for acceptable in (True, False):
        for pair in pairs:
            text = pair.sentence(acceptable=acceptable)
            texts.append(text)
            spans.append((len(pair.prefix_acceptable if acceptable else pair.prefix_unacceptable), len(text)))
    batch = model.encode(texts)
    starts = [at[0] for at in batch.positions_of(spans)]
    values, streams = [], []
    for start in range(0, len(batch), CHUNK):
        rows = list(range(start, min(start + CHUNK, len(batch))))
        part, places = batch.select(rows), [list(range(starts[r] - 1, batch.lengths[r])) for r in rows]
        acts = model.capture(part, ["embed", "resid_post", "logits"], positions=places)
        ends = np.cumsum([len(p) for p in places]) - 1
        logp = acts["logits"].float().log_softmax(-1)
        following = torch.tensor([t for ids, p in zip(part.ids, places, strict=True) for t in (*ids[p[0] + 1 :], 0)])
        each = logp.gather(1, following.to(logp.device)[:, None])[:, 0].cpu().double().numpy()
        each[ends] = 0.0  # what follows the sentence is not asked
        values.append(np.add.reduceat(each, np.r_[0, ends[:-1] + 1]))
        at = torch.from_numpy(ends)
        streams.append(torch.cat([acts["embed"][at][:, None], acts["resid_post"][at]], 1).float().cpu())
    value, n = np.concatenate(values), len(pairs)
    return value[:n] - value[n:], (batch, torch.cat(streams))


def _probe(
    batch: Batch, stream: Tensor, group: np.ndarray, permutations: int, seed: int
) -> tuple[tuple[float, ...], dict[str, np.ndarray]]:
    """(score, low, high, control, p) of the nested probe, and the columns of the curve."""
    n = len(group)
    labels, groups = np.r_[np.ones(n), np.zeros(n)].astype(int), np.r_[group, group]
    folds = make_folds(labels, groups, seed=seed)
    shuffled = permuted_labels(labels, groups, permutations, seed + 1, folds=folds)
    problem = Problem(np.concatenate([labels[None], shuffled]), folds, "binary", "accuracy")
    found = probe_layers(stream, problem, groups, seed=seed)
    values = held_out_scores(stream, Problem(labels[None], folds, "binary", "accuracy"))[1]
    bow = held_out_scores(_bag(batch), Problem(labels[None], folds, "binary", "accuracy"))[0][0, 0]
    curve, bar = found.curve["score"].values, float(found.curve["control_high"].values.max())
    columns = {c: found.curve[c].values for c in ("score", "control", "control_high")}
    columns |= {
        "f1": np.array([_f1(v, labels) for v in values]),
        "bow": np.array(bow),
        "saturation": np.array(
            float(np.flatnonzero(curve >= SATURATED * curve.max())[0]) if curve.max() > bar else np.nan
        ),
        "peak": np.array(float(curve.argmax()) if curve.max() > bar else np.nan),
    }
    return (found.score, *found.interval, found.control, found.p), columns


def _bag(batch: Batch) -> Tensor:
    """How often each token occurs, [row, 1, token]: what words alone tell."""
    used = sorted({token for row in batch.ids for token in row})
    place = {token: i for i, token in enumerate(used)}
    counts = torch.zeros(len(batch), 1, len(used))
    for row, ids in enumerate(batch.ids):
        for token in ids:
            counts[row, 0, place[token]] += 1
    return counts


def _f1(values: Tensor, labels: np.ndarray) -> float:
    """F1 of the acceptable class from decision values [row, class]."""
    problem = Problem(labels[None], np.zeros(len(labels), dtype=int), "binary", "accuracy")
    right = correct(problem, np.arange(len(labels)), values[:, None])[:, 0].numpy() == 1
    hit, wrong = float((right & (labels == 1)).sum()), float((~right).sum())
    return 2 * hit / max(2 * hit + wrong, 1.0)
