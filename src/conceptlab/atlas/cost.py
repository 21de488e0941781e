"""What a run will cost, from a short calibration on the user's own rows."""

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.atlas.reading import locate
from conceptlab.numerics.linear_fit import fit_columns, rotate
from conceptlab.runs import Estimate
from conceptlab.runs.estimate import resident_bytes

if TYPE_CHECKING:
    from conceptlab.data import ConceptSet
    from conceptlab.model import Model

TRIAL_ROWS, TRIAL_COLUMNS, FITS_A_LAYER, EFFECT_ROWS = 32, 64, 15, 24
REPLAYS_AND_REPORT = 300_000_000  # bytes; measured on the embedded model, whose own rows take 12 MB


def estimate_run(model: "Model", concepts: "ConceptSet", *, permutations: int, quick: bool, n_random: int) -> Estimate:
    """Texts through the model, seconds and peak bytes of a run; the trial takes well under a second on a small model."""
    batch, _ = locate(model, concepts.concepts[0])
    trial = batch.select(range(min(TRIAL_ROWS, len(batch))))
    model.capture(trial.select([0]), "resid_post")
    start = time.monotonic()
    model.capture(trial, ["embed", "resid_post"])
    per_text = (time.monotonic() - start) / len(trial)
    rows = sum(c.n for c in concepts) * (1 if quick else 3)
    replays = len(concepts) * EFFECT_ROWS * n_random * 4
    share = 1.2 / max(float(np.mean(batch.lengths)), 2.0)
    seconds = rows * per_text + replays * per_text * share
    for concept in concepts:
        classes = len(concept.class_names) if concept.kind == "classes" else 1
        columns = (permutations + 1) * classes * FITS_A_LAYER * (model.n_layers + 1)
        seconds += columns * _seconds_a_column(concept.n, model.d_model) * 1.6
    return Estimate(round(rows + replays * share), seconds, _peak_bytes(model, concepts))


def _seconds_a_column(n: int, d: int) -> float:
    """Time of one fit among many on noise of this shape."""
    generator = torch.Generator().manual_seed(0)
    shown, width = min(n, 1000), min(d, 512)
    x = rotate(torch.randn(shown, width, generator=generator))
    y = (torch.rand(shown, TRIAL_COLUMNS, generator=generator) > 0.5).float()
    start = time.monotonic()
    fit_columns(x, y, torch.ones(1, 1).expand_as(y), c=0.01, tol=1e-2)
    return (time.monotonic() - start) / TRIAL_COLUMNS * (n / shown) * (d / width)


def _peak_bytes(model: "Model", concepts: "ConceptSet") -> int:
    """What the process holds by now (weights and libraries), the widest concept's activations (twice, while they are put in
    order), the batches of replays and the script of the report."""
    row = 4 * ((model.n_layers + 1) * model.d_model * 3 + model.n_layers * (model.d_model + model.d_mlp))
    return int(resident_bytes() + REPLAYS_AND_REPORT + 2 * max(c.n for c in concepts) * row)
