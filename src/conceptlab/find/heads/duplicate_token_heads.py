"""Which heads look back at an earlier copy of the token they stand at? Attention at the lag of repetition among random words.

Control: attention of all heads around that lag where no word is said twice. Source: Wang et al. 2023 (duplicate-token heads of the
indirect-object circuit). Cost: two forwards of the rows, shared.
"""

from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.survey import LITTLE, HeadSurvey

CARD = {
    "name": "duplicate-token heads",
    "paper": "Wang et al. 2023, Interpretability in the Wild",
    "tags": ["heads", "attention"],
    "takes": "a model",
    "returns": "Units",
    "cost": "two forwards of random rows, shared with the other detectors of attention",
}


def duplicate_token(survey: HeadSurvey) -> Scored:
    """Mean attention [layer, head] to the same word's first saying. Raises as `HeadSurvey.by_lag`."""
    return Scored(
        survey.at_lag(survey.n, twice=True), survey.idle(survey.n), survey.n_rows, {"n_words": survey.n}, floor=LITTLE
    )


DETECTOR = Detector(
    "duplicate-token",
    "attention to an earlier copy of the token",
    duplicate_token,
    "in-context identification",
    HeadSurvey.naming_task,
)
