"""Find neurons by what they do: any of the detectors of this folder on any model, in passes that they share.

    found = find_neurons(model, ["vocabulary"])
    found.units["vocabulary"].top(5, q_max=0.05)

A new detector is one file with a function and a `DETECTOR`, and a line in `DETECTORS`.
"""

from collections.abc import Sequence

from conceptlab.find.detector import Detector, Found, run_detectors
from conceptlab.find.neurons import expert_neurons, gated_neurons, vocabulary_neurons
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.model import Model
from conceptlab.runs import SILENT, Progress

_KNOWN = (vocabulary_neurons.DETECTOR, gated_neurons.DETECTOR, gated_neurons.DEPLETION, expert_neurons.DETECTOR)
DETECTORS: dict[str, Detector[NeuronSurvey]] = {detector.name: detector for detector in _KNOWN}


def find_neurons(
    model: Model,
    detectors: Sequence[str] | None = None,
    *,
    seed: int = 0,
    survey: NeuronSurvey | None = None,
    progress: Progress = SILENT,
) -> Found:
    """Rank every neuron by each of `detectors` (None: all), with p and q from the same statistic where there is nothing.

    `survey` holds what is looked at (default: the weights of `model`). A detector that cannot ask its question of this model is
    named in `skipped`. Raises InputError for an unknown name, and a single detector's own error.
    """
    return run_detectors("neuron", survey or NeuronSurvey(model, seed=seed), DETECTORS, detectors, progress=progress)
