"""Can wrong answers be told from right ones before anybody checks them, and which kind of error can?

Each detector is fitted on other subjects and scored by AUC: `state` (a probe of the stream at the last word, its layer chosen on
the training subjects), `subject norm` (the size of the stream at the subject's last token, by layer), `confidence` (the
probability of what is said), and as a baseline `word` (only which word is said: enough where errors say other words than right
answers do).
The contrasts: associated errors, detached errors and both together against right answers, and detached ones against right answers
that say the same words.
Source: Cheang et al. 2025, Large Language Models Do NOT Really Know What They Don't Know. Departure: nested choice of the layer,
subjects whole in one fold, and the baseline.
Control: the same procedure on labels shuffled between subjects; q over all cells.
Cost: one forward of the prompts, then probe fits.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import DataError
from conceptlab.evidence import make_folds, permuted_labels, q_values
from conceptlab.measure.probing.answered_facts import AnsweredFacts
from conceptlab.measure.probing.columns import Problem
from conceptlab.measure.probing.layer_probe import probe_layers
from conceptlab.measure.probing.streams import stream_at
from conceptlab.model import Model
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "error detectors",
    "paper": "Cheang et al. 2025, Large Language Models Do NOT Really Know What They Don't Know",
    "tags": ["probing", "hallucination"],
    "takes": "a model, answered questions about facts",
    "returns": "Scores",
    "cost": "two forwards of the prompts, and probe fits",
}
CONTRASTS = {"associated": (1,), "detached": (2,), "any error": (1, 2), "detached, same words": (2,)}
DETECTORS = ("state", "subject norm", "confidence", "word")
COLUMNS = ("score", "low", "high", "control", "control_high", "p")


def error_detectors(model: Model, answered: AnsweredFacts, *, permutations: int = 20, seed: int = 0) -> Scores:
    """AUC of telling errors from right answers; axes (contrast, detector); NaN where a contrast has too few subjects.

    `score`, `low`, `high` (subjects drawn again), `control`, `control_high` (shuffled labels), `p`, `q`, and `n` [contrast].
    """
    before = model.forwards
    features = _features(model, answered)
    values = {c: np.full((len(CONTRASTS), len(DETECTORS)), np.nan) for c in COLUMNS}
    counts, skipped = [], []
    for i, (contrast, kinds) in enumerate(CONTRASTS.items()):
        rows = _rows(answered, kinds, same=contrast.endswith("same words"))
        counts.append(len(rows))
        for j, detector in enumerate(DETECTORS):
            found = _detect(features[detector][torch.from_numpy(rows)], answered, rows, permutations, seed)
            if isinstance(found, DataError):
                skipped.append(f"{contrast}: {found}")
                break
            for column, value in zip(COLUMNS, found, strict=True):
                values[column][i, j] = value
    p = values["p"].ravel()
    q = np.full(len(p), np.nan)
    q[np.isfinite(p)] = q_values(p[np.isfinite(p)])
    dims = ("contrast", "detector")
    columns = {c: (dims, v) for c, v in values.items()} | {
        "q": (dims, q.reshape(values["p"].shape)),
        "n": ("contrast", counts),
    }
    data = xr.Dataset(columns, coords={"contrast": list(CONTRASTS), "detector": list(DETECTORS)})
    provenance = Provenance(
        "error detectors", len(answered.said), seed, model.name, model.revision, settings={"permutations": permutations},
        passes=round(model.forwards - before), warnings=tuple(skipped),
    )  # fmt: skip
    return Scores(data, provenance)


def _features(model: Model, answered: AnsweredFacts) -> dict[str, Tensor]:
    """What each detector looks at, [row, layer, d]."""
    last = [n - 1 for n in answered.batch.lengths]
    subject = stream_at(model, answered.batch, [at[-1] for at in answered.subject])
    words = np.unique(answered.said, return_inverse=True)[1]
    return {
        "state": stream_at(model, answered.batch, last),
        "subject norm": subject.norm(dim=-1, keepdim=True),
        "confidence": torch.from_numpy(answered.confidence).float()[:, None, None],
        "word": torch.nn.functional.one_hot(torch.from_numpy(words)).float()[:, None],
    }


def _rows(answered: AnsweredFacts, kinds: Sequence[int], *, same: bool) -> np.ndarray:
    """Right answers and errors of these kinds; with `same` only rows whose word both of them say."""
    rows = np.flatnonzero(np.isin(answered.kind, (0, *kinds)))
    if not same:
        return rows
    wrong = answered.kind[rows] > 0
    both = set(answered.said[rows][wrong]) & set(answered.said[rows][~wrong])
    return rows[np.isin(answered.said[rows], list(both))]


def _detect(
    features: Tensor, answered: AnsweredFacts, rows: np.ndarray, permutations: int, seed: int
) -> tuple[float, ...] | DataError:
    """The columns of one cell; the DataError where there are too few subjects for folds."""
    labels, groups = (answered.kind[rows] > 0).astype(int), answered.groups[rows]
    if not len(rows) or labels.min() == labels.max():
        return DataError(f"{int(labels.sum())} of {len(rows)} answers are wrong, so there is nothing to tell apart")
    try:
        folds = make_folds(labels, groups, seed=seed)
    except DataError as error:
        return error
    shuffled = permuted_labels(labels, groups, permutations, seed + 1, folds=folds)
    problem = Problem(np.concatenate([labels[None], shuffled]), folds, "binary", "auc")
    found = probe_layers(features, problem, groups, seed=seed)
    return (found.score, *found.interval, found.control, float(np.quantile(found.null, 0.95)), found.p)
