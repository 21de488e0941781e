"""Which heads look at the token before, whatever it is? Attention at lag 1 among random words.

Control: attention of all heads at lags that stand for nothing, in the same words. A decoy that looks there and writes nothing
scores as well: ablation tells (`head_atlas`). Source: Elhage et al. 2021; Olsson et al. 2022.
Cost: one forward of the rows, shared.
"""

from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.survey import LITTLE, HeadSurvey

CARD = {
    "name": "previous-token heads",
    "paper": "Elhage et al. 2021; Olsson et al. 2022, In-context Learning and Induction Heads",
    "tags": ["heads", "attention"],
    "takes": "a model",
    "returns": "Units",
    "cost": "one forward of random rows, shared with the other detectors of attention",
}


def previous_token(survey: HeadSurvey) -> Scored:
    """Mean attention [layer, head] to the token before. Raises as `HeadSurvey.by_lag`."""
    return Scored(survey.at_lag(1, twice=False), survey.idle(1), survey.n_rows, {"n_words": survey.n}, floor=LITTLE)


DETECTOR = Detector(
    "previous-token",
    "attention to the token before",
    previous_token,
    "in-context identification",
    HeadSurvey.repetition,
)
