"""Which heads write against the right name? The name movers' score with the sign turned, and the same control.

Such a head (copy suppression) lowers the logit of the name that the text asks for; taking it away raises it. A head that copies
whatever it sees and looks at all names alike is one as well, since the repeated name stands there twice.
Source: Wang et al. 2023; McDougall et al. 2023, Copy Suppression. Cost: none beside the name movers'.
"""

from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.name_mover_heads import name_mover
from conceptlab.find.heads.survey import HeadSurvey

CARD = {
    "name": "negative name-mover heads",
    "paper": "Wang et al. 2023, Interpretability in the Wild; McDougall et al. 2023, Copy Suppression",
    "tags": ["heads", "logits"],
    "takes": "a model",
    "returns": "Units",
    "cost": "none beside the name movers'",
}


def negative_name_mover(survey: HeadSurvey) -> Scored:
    """Logits against the answer and for the repeated name [layer, head], mean over prompts. Raises as `HeadSurvey.naming`."""
    return name_mover(survey, -1.0)


DETECTOR = Detector(
    "negative-name-mover",
    "writes against the name that is said once",
    negative_name_mover,
    "in-context identification",
    HeadSurvey.holding_back,
)
