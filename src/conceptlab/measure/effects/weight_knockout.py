"""Put single weights to 0 and see which texts the model foresees worse, beside as many other weights of the same matrices.

Score: rise of the mean loss of each corpus, nats a token. Specificity is the claim, not collapse: the rise of the ability's texts
beside that of the others. Control: random weights of the same number in every matrix (several draws; p is how often they do as
much), and whatever other sets are given. The model is as it was afterwards. Source: C9 of the methods' specification.
Cost: (1 + sets + n_random) forwards of every text.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.model.text_loss import matrices, text_loss
from conceptlab.results import Provenance, Scores
from conceptlab.results.weights import Weights
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "knock-out of weights",
    "paper": "Exploring Coding Spot: Understanding Parametric Contributions to LLM Coding Performance",
    "tags": ["effects", "ablation", "weights"],
    "takes": "a model, named corpora, named sets of weights",
    "returns": "Scores",
    "cost": "(1 + sets + random sets) forwards of every text",
}


@contextmanager
def without_weights(model: Model, weights: Weights) -> Iterator[None]:
    """These weights are 0 while the context is open. Raises InputError where the model has other matrices."""
    held = matrices(model)
    for name, size in weights.sizes.items():
        if name not in held or held[name].numel() != size:
            raise InputError(
                f"{model.name} has no matrix {name} of {size} weights; these weights belong to another model"
            )
    kept = {}
    try:
        with torch.no_grad():
            for name, at in weights.places.items():
                flat = held[name].view(-1)
                kept[name] = flat[at].clone()
                flat[at] = 0
        yield
    finally:
        with torch.no_grad():
            for name, values in kept.items():
                held[name].view(-1)[weights.places[name]] = values


def weight_knockout(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    corpora: Mapping[str, Texts],
    sets: Mapping[str, Weights],
    random: Callable[[int], Weights],
    *,
    n_random: int = 20,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Rise of the loss under each of `sets`, axes (set, corpus); `random(draw)` gives the weights of a random draw.

    `score` with `low`, `high` (95 %, rows drawn again), `control` mean rise under random draws, `control_high` their 95 % point,
    `p` and `q` over all cells; `clean` [corpus] the loss as it is, nats a token. Raises InputError for weights of another model.
    """
    before, names = model.forwards, list(corpora)
    clean = {name: text_loss(model, texts).numpy() for name, texts in corpora.items()}
    rows: list[dict[str, np.ndarray]] = []
    with progress.task("sets of weights", total=len(sets) + n_random) as task:
        for weights in (*sets.values(), *(random(seed + draw) for draw in range(n_random))):
            with without_weights(model, weights):
                rows.append({name: text_loss(model, texts).numpy() - clean[name] for name, texts in corpora.items()})
            task.advance()
    score = np.array([[row[name].mean() for name in names] for row in rows])
    ends = np.array([[bootstrap_mean(row[name][:, None], seed=seed) for name in names] for row in rows[: len(sets)]])
    null = score[len(sets) :]
    nothing = np.full((len(sets), len(names)), np.nan)
    p = permutation_p(score[: len(sets)], null[:, None]) if n_random else nothing
    columns = {
        "score": score[: len(sets)], "low": ends[:, :, 0, 0], "high": ends[:, :, 1, 0],
        "control": np.tile(null.mean(0), (len(sets), 1)) if n_random else nothing,
        "control_high": np.tile(np.quantile(null, 0.95, axis=0), (len(sets), 1)) if n_random else nothing,
        "p": p, "q": q_values(p.reshape(-1)).reshape(p.shape) if n_random else nothing,
    }  # fmt: skip
    data = xr.Dataset(
        {n: (("set", "corpus"), v) for n, v in columns.items()}, coords={"set": list(sets), "corpus": names}
    )
    data["clean"] = ("corpus", [clean[name].mean() for name in names])
    provenance = Provenance(
        "knock-out of weights", sum(map(len, clean.values())), seed, model.name, model.revision, causal="ablation",
        settings={"n_random": n_random, "weights": {name: len(w) for name, w in sets.items()}},
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)
