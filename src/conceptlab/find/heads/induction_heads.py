"""Which heads look at what followed an earlier copy of the token? Attention at the lag of repetition less one, among random words.

Control: attention of all heads around that lag where no word is said twice. Source: Olsson et al. 2022 (prefix matching).
Cost: two forwards of the rows, shared.
"""

from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.survey import LITTLE, HeadSurvey

CARD = {
    "name": "induction heads",
    "paper": "Olsson et al. 2022, In-context Learning and Induction Heads",
    "tags": ["heads", "attention"],
    "takes": "a model",
    "returns": "Units",
    "cost": "two forwards of random rows, shared with the other detectors of attention",
}


def induction(survey: HeadSurvey) -> Scored:
    """Mean attention [layer, head] to the follower of the same word's first saying. Raises as `HeadSurvey.by_lag`."""
    lag = survey.n - 1
    return Scored(survey.at_lag(lag, twice=True), survey.idle(lag), survey.n_rows, {"n_words": survey.n}, floor=LITTLE)


DETECTOR = Detector(
    "induction", "attention to what followed an earlier copy", induction, "latent reasoning", HeadSurvey.repetition
)
