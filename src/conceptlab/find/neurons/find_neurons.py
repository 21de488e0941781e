"""Find neurons by what they do: any of the detectors of this folder on any model, in passes that they share.

    found = find_neurons(model, ["vocabulary"])
    found.units["vocabulary"].top(5, q_max=0.05)

A new detector is one file with a function and a `DETECTOR`, and a line in `DETECTORS`.
"""

from collections.abc import Sequence

from conceptlab.find.detector import Detector, Found, run_detectors
from conceptlab.find.neurons import expert_neurons, gated_neurons, vocabulary_neurons
from conceptlab.find.neurons.concept_experts import concept_detectors
from conceptlab.find.neurons.expert_neurons import Labelled
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

    `survey` holds what is looked at (default: the weights of `model`); labelled texts in it add a detector a concept, named
    "expert: CONCEPT". A detector that cannot ask its question of this model is named in `skipped`. Raises InputError for an
    unknown name, and a single detector's own error.
    """
    looked = survey or NeuronSurvey(model, seed=seed)
    known = {**DETECTORS, **concept_detectors(looked.labelled)}
    return run_detectors("neuron", looked, known, detectors, progress=progress)


def by_concept(detectors: Sequence[str] | None, labelled: Labelled) -> list[str]:
    """The names (None: all) with one detector a concept in place of `expert`."""
    each = list(concept_detectors(labelled))
    names = list(DETECTORS) if detectors is None else detectors
    return [name for asked in names for name in (each if asked == expert_neurons.DETECTOR.name else [asked])]
