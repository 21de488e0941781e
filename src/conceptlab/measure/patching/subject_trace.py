"""Where along the layers does an answer depend on the subject's state? Put another subject's state there and see if it changes.

Before each layer the stream at the subject's last token is set to what it is for another row's subject. Score: the share of answers
that are then another word. Like causal tracing (Meng et al. 2022) it asks what the subject's site carries; a neighbour's state
stands in for noise, so that the run stays among states that occur, and answers that do not come from the subject do not change.
Control: the same site moved by as much in a random direction; p asks whether the subject's state does more (rows change places).
Cost: one capture, and a sweep of 2 x layers edits.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import q_values
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.evidence.swapped_rows import swapped_rows_p
from conceptlab.measure.patching.pairs import random_like
from conceptlab.model import Model
from conceptlab.model.metric import right
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "subject trace",
    "paper": "Meng et al. 2022; Cheang et al. 2025",
    "tags": ["patching", "facts"],
    "takes": "a model, texts, the position of each subject",
    "returns": "Scores",
    "cost": "a sweep of 2 x layers edits",
}


def subject_trace(
    model: Model,
    texts: Texts,
    positions: Sequence[int],
    said: Sequence[int],
    groups: Sequence[int] | np.ndarray,
    *,
    seed: int = 0,
) -> Scores:
    """Share of answers `said` [row] that change when the state at `positions` [row] becomes that of another subject; axis layer.

    `groups` [row] number the subjects; each row takes the state of a row of another one. `score`, `low`, `high` (subjects drawn
    again), `control`, `p`, `q`. Raises InputError where counts differ or there is one subject only.
    """
    batch, ids = model.encode(texts), np.asarray(groups)
    if not len(batch) == len(positions) == len(said) == len(ids):
        raise InputError(f"{len(batch)} texts, {len(positions)} positions, {len(said)} answers; give one of each a row")
    if len(np.unique(ids)) < 2:
        raise InputError(
            "all texts have one subject, so no other state can take its place; give texts of several subjects"
        )
    before, layers = model.forwards, model.layers_with("resid_pre")
    at = tuple((int(p),) for p in positions)
    base = model.capture(batch, "resid_pre", positions=[list(p) for p in at])["resid_pre"]
    donor = base[torch.from_numpy(_others(ids, np.random.default_rng(seed)))]
    random = random_like(base, donor, torch.Generator().manual_seed(seed))
    edits = [
        Edit(Site("resid_pre", layer), "set", values[:, i], positions=at)  # type: ignore[arg-type]
        for values in (donor, random) for i, layer in enumerate(layers)
    ]  # fmt: skip
    found = sweep(model, batch, edits, right(list(said)))
    changed = -found.change.reshape(2, len(layers), len(batch))
    real, control = changed[0].T, changed[1].T
    bounds = np.array([bootstrap_share(real[:, i], ids, seed=seed) for i in range(len(layers))])
    p = swapped_rows_p(real, control, seed=seed)
    columns = {
        "score": real.mean(0), "low": bounds[:, 0], "high": bounds[:, 1], "control": control.mean(0), "p": p, "q": q_values(p),
    }  # fmt: skip
    data = xr.Dataset({n: ("layer", v) for n, v in columns.items()}, coords={"layer": [str(i) for i in layers]})
    provenance = Provenance(
        "subject trace",
        len(batch),
        seed,
        model.name,
        model.revision,
        passes=round(model.forwards - before),
        causal="patching",
    )
    return Scores(data, provenance)


def _others(ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row a random row of another subject."""
    return np.array([rng.choice(np.flatnonzero(ids != own)) for own in ids])
