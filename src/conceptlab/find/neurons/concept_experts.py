"""Which neurons are experts of each concept of a labelled file? One ranking a concept, all from one pass over the file's texts.

A text that several concepts label is read once. A binary concept asks for its second class; of more classes each is asked for
against the others; a graded concept has no positives and is refused. Score, null and p are those of `expert_neurons`; rows of one
group are shuffled together, as they share a fold elsewhere. Source and departures: there. Cost: one forward of the texts; what is
kept is texts x neurons; a sort a neuron and concept.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import numpy as np

from conceptlab.data import Concept, ConceptSet
from conceptlab.errors import InputError
from conceptlab.find.detector import DRAWS, Detector, Scored
from conceptlab.find.neurons.expert_neurons import SITE, Labelled, concept_scores
from conceptlab.find.neurons.survey import NeuronSurvey

NAME = "expert: "


def labelled_concepts(concepts: ConceptSet) -> Labelled:
    """The rows of all concepts, each text and span once, however many concepts label it; one column a class that is asked for."""
    places: dict[tuple, int] = {}
    asked = []
    for concept in concepts:
        if concept.kind != "graded":
            rows = [places.setdefault(key, len(places)) for key in _keys(concept)]
            asked += [(name, concept, rows, label) for name, label in _classes(concept)]
    shape = (len(places), len(asked))
    positive, valid, groups = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, dtype=np.int64)
    for k, (_, concept, rows, label) in enumerate(asked):
        positive[rows, k], valid[rows, k] = concept.labels == label, True
        groups[rows, k] = np.arange(concept.n) if concept.groups is None else _ids(concept.groups)
    grouped = any(concept.groups is not None for _, concept, _, _ in asked)
    refused = {
        c.name: "a graded label has no positives; expert asks for classes" for c in concepts if c.kind == "graded"
    }
    return Labelled(
        tuple(text for text, _, _ in places), tuple(name for name, *_ in asked), positive, valid,
        spans=tuple(span for _, span, _ in places), groups=groups if grouped else None, refused=refused,
    )  # fmt: skip


def concept_detectors(labelled: Labelled | None) -> dict[str, Detector[NeuronSurvey]]:
    """One detector a concept of the labels; those of refused ones raise why."""
    given = Labelled((), (), np.zeros((0, 0)), np.zeros((0, 0))) if labelled is None else labelled
    found = {name: partial(_experts, k=k) for k, name in enumerate(given.names)}
    refused = {name: partial(_refused, why=why) for name, why in given.refused.items()}
    return {
        NAME + name: Detector(NAME + name, f"fires for texts of {name}", score)
        for name, score in (found | refused).items()
    }


def _keys(concept: Concept) -> Iterator[tuple]:
    """(text, span, how often this concept has had it before): rows that are said again stay rows of their own."""
    before: Counter = Counter()
    for text, span in zip(concept.texts, concept.spans, strict=True):
        yield (text, span, before[text, span])
        before[text, span] += 1


def _classes(concept: Concept) -> list[tuple[str, int]]:
    """(name, class id) of every class that is asked for."""
    if concept.kind == "binary":
        return [(concept.name, 1)]
    return [(f"{concept.name} = {name}", label) for label, name in enumerate(concept.class_names)]


def _ids(groups: np.ndarray) -> np.ndarray:
    return np.unique(groups, return_inverse=True)[1]


def _experts(survey: NeuronSurvey, k: int) -> Scored:
    """Average precision for one concept [layer, neuron] beside its shuffled labels; `sign` and `auc` as in `expert_neurons`."""
    model, labelled = survey.model, survey.labelled
    if labelled is None:
        raise InputError(
            "experts of a concept need labelled texts; give the survey what labelled_concepts makes of a file"
        )
    highest, lowest = survey.responses
    rng = np.random.default_rng([survey.seed, k])
    ap, null, sign, auc = concept_scores(highest, lowest, labelled, k, DRAWS, rng)
    layers, width = list(model.layers_with(SITE)), highest.shape[2]

    def spread(flat: np.ndarray) -> np.ndarray:
        full = np.full((*flat.shape[:-1], model.n_layers, model.d_mlp), np.nan)
        full[..., layers, :width] = flat.reshape(*flat.shape[:-1], -1, width)
        return full

    n, hits = int(labelled.valid[:, k].sum()), int(labelled.positive[:, k].sum())
    more = {"sign": spread(sign.astype(float)), "auc": spread(auc)}
    return Scored(spread(ap), spread(null), n, {"concept": labelled.names[k], "prevalence": hits / n}, more=more)


def _refused(survey: NeuronSurvey, why: str) -> Scored:  # noqa: ARG001 - the form of a detector
    raise InputError(why)
