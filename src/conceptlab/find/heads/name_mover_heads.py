"""Which heads bring the right name to the end of a text? What each writes at the last token for the name that is said once, over
the name said twice.

Direct effect alone, with the final norm held. A head that only looks at the name writes nothing; one that looks at all names alike
writes more of the repeated one. Control: the same sums with every name in another's place, the same in all prompts, so that a head
that writes for names at random, however loudly, has its like in the null. Source: Wang et al. 2023 (indirect-object circuit).
A score within 1 % of the logit difference is of no interest. Cost: one forward of the prompts, shared.
"""

import numpy as np

from conceptlab.evidence.floor import FLOOR
from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.survey import HeadSurvey

CARD = {
    "name": "name-mover heads",
    "paper": "Wang et al. 2023, Interpretability in the Wild",
    "tags": ["heads", "logits"],
    "takes": "a model",
    "returns": "Units",
    "cost": "one forward of the prompts with names, shared",
}


def name_mover(survey: HeadSurvey, sign: float = 1.0) -> Scored:
    """Logits for the answer over the repeated name [layer, head], mean over prompts. Raises as `HeadSurvey.naming`."""
    naming = survey.naming
    null = [naming.for_answer(mapping) for mapping in naming.mappings(survey.n_draws, survey.seed)]
    floor = FLOOR * abs(naming.logit_difference)
    settings = {"n_names": len(naming.names), "unit": "logits", "logit difference": naming.logit_difference}
    return Scored(sign * naming.for_answer(), sign * np.stack(null), len(naming.batch), settings, floor=floor)


DETECTOR = Detector(
    "name-mover", "writes the name that is said once", name_mover, "in-context identification", HeadSurvey.naming_task
)
