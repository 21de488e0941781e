"""What a search for heads or neurons will cost, from a short calibration on the model that is asked.

Texts are counted by what the detectors look at, each thing once however many of them look; seconds are those of a few such texts,
by the token. The sorting of scores is counted where it is most of the work (products with the vocabulary, experts of concepts).
"""

import time
from collections.abc import Collection

import torch

from conceptlab.errors import ConceptlabError
from conceptlab.find.detector import DRAWS
from conceptlab.find.heads.survey import AT_ONCE, HeadSurvey
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.numerics.average_precision import average_precision
from conceptlab.runs import Estimate
from conceptlab.runs.estimate import resident_bytes

TRIAL_TEXTS, TRIAL_UNITS = 4, 256
REPEATED = ("previous-token", "duplicate-token", "induction")
NAMES = ("name-mover", "negative-name-mover", "s-inhibition")
COPIED = 400  # words that copying heads are asked, at most
RETRIEVED = 4  # tokens that are decoded of each hidden fact, at most


def estimate_heads(survey: HeadSurvey, names: Collection[str], *, atlas: bool = False) -> Estimate:
    """Texts, seconds and peak bytes of these detectors and, with `atlas`, of the tasks that heads are taken away from."""
    model, length = survey.model, len(survey.prefix) + 2 * survey.n
    trial = survey.said_twice.select(range(min(TRIAL_TEXTS, survey.n_rows)))
    reading = _again(lambda: model.logits(trial)) / len(trial) / length  # a token
    looking = _seconds(lambda: survey.by_lag(trial)) / len(trial)
    rows = survey.n_rows * (1 + len(survey.said_once)) if set(REPEATED) & set(names) else 0
    short = _short_texts(survey, names)
    texts, seconds = rows + sum(n for n, _ in short), rows * looking + sum(n * tokens for n, tokens in short) * reading
    if atlas:
        edits = len(_tasks(names)) * model.n_layers * model.n_heads * survey.task_rows
        texts, seconds = texts + edits, seconds + edits * 0.5 * length * reading  # half of the blocks lie above a head
    shown = min(4 * AT_ONCE, 4 * survey.n_rows * model.n_layers * model.n_heads * survey.n * length)
    return Estimate(texts, seconds, resident_bytes() + 2 * shown)


def estimate_neurons(survey: NeuronSurvey, names: Collection[str]) -> Estimate:
    """Texts, seconds and peak bytes of these detectors; products and sorts are counted, too."""
    model, seconds, kept, texts = survey.model, 0.0, 0, 0
    if "vocabulary" in names:
        seconds += _product_seconds(survey)
    concepts = [name for name in names if name.startswith("expert")]
    if survey.labelled is not None and survey.labelled.texts and concepts:
        batch = model.encode(list(survey.labelled.texts))
        trial = batch.select(range(min(TRIAL_TEXTS, len(batch))))
        tokens = sum(batch.lengths) / max(1, sum(trial.lengths))
        seconds += _again(lambda: model.capture(trial, "mlp_post", positions="all")) * tokens
        rows = int(survey.labelled.valid.sum(0).mean())  # of one concept: it is sorted among its own
        seconds += len(concepts) * _sort_seconds(rows) * model.n_layers * model.d_mlp / TRIAL_UNITS
        texts, kept = len(batch), 8 * len(batch) * model.n_layers * model.d_mlp
    return Estimate(texts, seconds, resident_bytes() + max(survey.budget_bytes, kept))


def _short_texts(survey: HeadSurvey, names: Collection[str]) -> list[tuple[int, int]]:
    """(texts, tokens of one) of the detectors that do not look at random words said twice."""
    found, asked = [], set(names)
    try:
        if asked & set(NAMES):
            found.append((2 * len(survey.naming.batch), max(survey.naming.batch.lengths)))
        if "successor" in asked:
            found.append((len(survey.ordinals.tokens), 2))
    except ConceptlabError:
        pass  # they will be skipped, and say why
    if "copying" in asked:
        found.append((min(COPIED, len(survey.words)), 2))
    if "retrieval" in asked:
        found.append((survey.n_rows, len(survey.prefix) + 2 * survey.n + RETRIEVED))
    return found


def _tasks(names: Collection[str]) -> set[str]:
    """Kinds of tasks of the atlas, by detectors that share one."""
    kinds = {**dict.fromkeys(REPEATED, "repetition"), **dict.fromkeys(NAMES, "names")}
    return {kinds.get(name, name) for name in names}


def _seconds(work) -> float:  # noqa: ANN001 - () -> anything
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _again(work) -> float:  # noqa: ANN001 - () -> anything
    """Seconds of the second time: the first also loads code and memory."""
    work()
    return _seconds(work)


def _product_seconds(survey: NeuronSurvey) -> float:
    """Of the streamed product of all neurons with the vocabulary; its comparisons take about as long as a part of it."""
    try:
        rows, vectors = survey.unembedding, sum(len(w.out) for w in survey.weights)
    except ConceptlabError:
        return 0.0
    some = torch.ones(TRIAL_UNITS, rows.shape[1], dtype=rows.dtype, device=rows.device)
    return 1.5 * _again(lambda: some @ rows.T) * vectors / TRIAL_UNITS


def _sort_seconds(n_texts: int) -> float:
    """Average precision of `TRIAL_UNITS` units for one concept and its shuffled labels, of either sign."""
    responses = torch.rand(n_texts, TRIAL_UNITS)
    labels = torch.rand(n_texts, 1 + DRAWS) < 0.5
    return 2 * _again(lambda: average_precision(responses, labels, torch.ones_like(labels)))
