"""Which heads say the word that they look at? Share of random words that a head's output alone names first among these words.

Read from the weights (`model/ov_circuit.py`), so it tells what a head would say, not where it looks. Control: every word in
another's place, the same in all, so that a head that says one word of everything has its like in the null. Source: Wang et al. 2023
(copy score); the sign of the eigenvalues of Elhage et al. 2021 asks the same of the whole vocabulary. Cost: one forward of single
words.
"""

import numpy as np

from conceptlab.find.detector import Detector, Scored
from conceptlab.find.heads.naming import derangement
from conceptlab.find.heads.survey import LITTLE, HeadSurvey
from conceptlab.model.ov_circuit import ov_answers

CARD = {
    "name": "copying heads",
    "paper": "Wang et al. 2023; Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
    "tags": ["heads", "weights"],
    "takes": "a model",
    "returns": "Units",
    "cost": "one forward of single words",
}
MOST_WORDS = 200


def copying(survey: HeadSurvey) -> Scored:
    """Share of words [layer, head] of which a head says the word itself. Raises as `HeadSurvey.n` and `ov_answers`."""
    rng = np.random.default_rng(survey.seed)
    size = max(2 * survey.n, min(MOST_WORDS, len(survey.words)))
    words = rng.choice(survey.words, min(size, len(survey.words)), replace=False)
    said = ov_answers(survey.model, words.tolist(), [range(len(words))]).numpy()  # [layer, head, word]
    null = np.stack([(said == derangement(len(words), rng)).mean(-1) for _ in range(survey.n_draws)])
    score = (said == np.arange(len(words))).mean(-1)
    missing = (said < 0).any(-1)
    return Scored(np.where(missing, np.nan, score), null, len(words), {"n_words": len(words)}, floor=LITTLE)


DETECTOR = Detector("copying", "says the word that it looks at", copying, "in-context identification")
