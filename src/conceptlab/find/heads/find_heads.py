"""Find heads by what they do: any of the detectors of this folder on any model, in passes that they share.

    found = find_heads(model, ["previous-token", "induction"])
    found.units["induction"].top(5, q_max=0.05)

A new detector is one file with a function and a `DETECTOR`, and a line in `DETECTORS`.
"""

from collections.abc import Sequence

from conceptlab.find.detector import Detector, Found, run_detectors
from conceptlab.find.heads import (
    copying_heads,
    duplicate_token_heads,
    induction_heads,
    name_mover_heads,
    negative_name_mover_heads,
    previous_token_heads,
    retrieval_heads,
    s_inhibition_heads,
    successor_heads,
)
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.model import Model
from conceptlab.runs import SILENT, Progress

_MODULES = (
    previous_token_heads,
    duplicate_token_heads,
    induction_heads,
    name_mover_heads,
    negative_name_mover_heads,
    s_inhibition_heads,
    copying_heads,
    retrieval_heads,
    successor_heads,
)
DETECTORS: dict[str, Detector[HeadSurvey]] = {module.DETECTOR.name: module.DETECTOR for module in _MODULES}


def find_heads(
    model: Model,
    detectors: Sequence[str] | None = None,
    *,
    seed: int = 0,
    survey: HeadSurvey | None = None,
    progress: Progress = SILENT,
) -> Found:
    """Rank every head by each of `detectors` (None: all), with p and q from the same statistic where there is nothing.

    `survey` holds what is looked at (default: random words for `model`). A detector that cannot ask its question of this model is
    named in `skipped`. Raises InputError for an unknown name, and a single detector's own error.
    """
    return run_detectors("head", survey or HeadSurvey(model, seed=seed), DETECTORS, detectors, progress=progress)
