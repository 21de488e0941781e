"""Which neurons are detectors of a concept? Average precision of every neuron for every concept, from one pass over the texts.

A neuron's response to a text is its largest activation over the text's real tokens (of its negative, too, where `inverted`: a
neuron that falls silent is no worse a detector, and average precision alone does not see it). An expert reaches more than any
neuron does for the concept's labels shuffled, in any draw: average precision means nothing without its prevalence, and the
best of thousands of silent neurons is never small. Source: Suau et al. 2020, 2022 (expert units, self-conditioning); Analyze
the Neurons, not the Embeddings (2025). Departure: the threshold is the null's largest value in place of a constant.
Cost: one forward of the texts; what is kept is texts x neurons; a sort a neuron and concept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import permuted_labels, pooled_p, q_values
from conceptlab.find.detector import DRAWS, Detector, Scored
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.model import Model
from conceptlab.numerics.average_precision import average_precision
from conceptlab.results import Provenance, Scores, Site
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "expert neurons",
    "paper": "Suau et al. 2020, Finding Experts in Transformer Models; Analyze the Neurons, not the Embeddings (2025)",
    "tags": ["neurons", "concepts"],
    "takes": "a model, positive texts by concept, negative texts for all",
    "returns": "Scores",
    "cost": "one forward of the texts",
}
SITE, AT_ONCE = "mlp_post", 64


@dataclass(frozen=True, eq=False)
class Labelled:
    """`texts`, and for every concept which rows are `positive` and which count at all (`valid`), both [row, concept].

    `spans` are the characters of each text that are read (None: all of it; empty: all of every text), `groups` [row, concept] ids
    of rows that are shuffled together (None: each alone), `refused` what else was asked for, and why it has no positives.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    positive: np.ndarray
    valid: np.ndarray
    spans: tuple[tuple[int, int] | None, ...] = ()
    groups: np.ndarray | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, positives: Mapping[str, Sequence[str]], negatives: Sequence[str]) -> "Labelled":
        """Every concept's own positives against negatives that all concepts share. Raises InputError where either is
        missing."""
        empty = [name for name, texts in positives.items() if len(texts) < 2]
        if not positives or empty or len(negatives) < 2:
            raise InputError(
                f"{len(positives)} concepts ({len(empty)} with fewer than two texts) and {len(negatives)} negatives came; give two "
                "texts or more of each"
            )
        own = [k for k, texts in enumerate(positives.values()) for _ in texts]
        positive = np.zeros((len(own) + len(negatives), len(positives)), dtype=bool)
        positive[np.arange(len(own)), own] = True
        valid = positive.copy()
        valid[len(own) :] = True
        texts = (*(text for some in positives.values() for text in some), *negatives)
        return cls(texts, tuple(positives), positive, valid)


def expert_neurons(
    model: Model,
    labelled: Labelled,
    *,
    inverted: bool = True,
    n_random: int = DRAWS,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Axes (concept, layer, neuron): `score` average precision (the better sign with `inverted`), `sign`, `auc` (of the
    response itself), `control` mean under shuffled labels, `p`, `q`, `expert`; by concept `threshold`, `prevalence`,
    `n_experts`.

    Raises SiteError where no layer has neurons.
    """
    before = model.forwards
    layers = list(model.layers_with(SITE))
    highest, lowest = pooled_responses(model, labelled.texts, labelled.spans, lowest=inverted, progress=progress)
    real, null, sign, auc = _scores(highest, lowest, labelled, n_random, seed)
    n_concepts = len(labelled.names)
    p = np.stack([pooled_p(real[k], null[:, k]) for k in range(n_concepts)])
    null_max = null.max(2)  # [draw, concept]
    threshold = null_max.max(0)
    shape = (n_concepts, *highest.shape[1:])
    columns = {
        "score": real, "sign": sign, "auc": auc, "control": null.mean(0), "p": p,
        "q": np.stack([q_values(row) for row in p]), "expert": real > threshold[:, None] + 1e-9,
    }  # fmt: skip
    data = xr.Dataset(
        {name: (("concept", "layer", "neuron"), column.reshape(shape)) for name, column in columns.items()}
        | {"threshold": ("concept", threshold), "null_max": (("draw", "concept"), null_max),
           "n_experts": ("concept", columns["expert"].sum(1)),
           "prevalence": ("concept", labelled.positive.sum(0) / labelled.valid.sum(0))},
        coords={"concept": list(labelled.names), "layer": layers},
    )  # fmt: skip
    provenance = Provenance(
        "expert neurons", len(labelled.texts), seed, model.name, model.revision,
        settings={"inverted": inverted, "n_random": n_random}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def experts_of(scores: Scores, concept: str, *, most: int | None = None) -> list[Site]:
    """The experts of a concept, best first."""
    at = scores.data.sel(concept=concept)
    order = np.argsort(-at["score"].values, axis=None, kind="stable")
    kept = order[at["expert"].values.ravel()[order]][:most]
    layer, neuron = np.unravel_index(kept, at["score"].shape)
    layers = at["layer"].values
    return [Site(SITE, int(layers[a]), (int(b),)) for a, b in zip(layer, neuron, strict=True)]


@torch.no_grad()
def pooled_responses(
    model: Model,
    texts: Sequence[str],
    spans: Sequence[tuple[int, int] | None] = (),
    *,
    lowest: bool = True,
    progress: Progress = SILENT,
) -> tuple[Tensor, Tensor | None]:
    """Largest and (where asked) smallest activation over each text's tokens (those of its span, if it has one), [text, layer,
    neuron]."""
    batch, layers = model.encode(list(texts)), model.layers_with(SITE)
    within = batch.positions_of(spans) if any(spans) else []
    read = [at if span else list(range(n)) for at, span, n in zip(within, spans, batch.lengths, strict=False)]
    shape = (len(batch), len(layers), int(model.tap(SITE, (layers or (0,))[0]).width or 0))
    top, low = torch.empty(shape), torch.empty(shape) if lowest else None
    with progress.task("texts", total=len(batch)) as task:
        for begin in range(0, len(batch), AT_ONCE):
            rows = list(range(begin, min(begin + AT_ONCE, len(batch))))
            found = model.capture(batch.select(rows), SITE, positions=[read[row] for row in rows] if read else "all")
            values, row = found[SITE].float().cpu(), torch.from_numpy(found.row)
            index = row[:, None, None].expand_as(values)
            for into, how in ((top, "amax"), (low, "amin")):
                if into is not None:
                    into[rows] = torch.empty(len(rows), *shape[1:]).scatter_reduce(
                        0, index, values, how, include_self=False
                    )
            task.advance(len(rows))
    return top, low


def _scores(
    highest: Tensor, lowest: Tensor | None, labelled: Labelled, n_random: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Average precision [concept, unit], the same under shuffled labels [draw, concept, unit], sign, and AUC of the
    response."""
    rng = np.random.default_rng(seed)
    parts = [concept_scores(highest, lowest, labelled, k, n_random, rng) for k in range(len(labelled.names))]
    real, null, sign, auc = zip(*parts, strict=True)
    return np.stack(real), np.stack(null, 1), np.stack(sign), np.stack(auc)


def concept_scores(  # noqa: PLR0913 - responses, whose labels, and how they are shuffled
    highest: Tensor, lowest: Tensor | None, labelled: Labelled, k: int, n_random: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same of one concept: [unit], [draw, unit], [unit], [unit]."""
    rows = np.flatnonzero(labelled.valid[:, k])
    own = labelled.positive[rows, k]
    if labelled.groups is None:
        shuffled = np.stack([rng.permutation(own) for _ in range(n_random)])
    else:
        shuffled = permuted_labels(own, labelled.groups[rows, k], n_random, int(rng.integers(2**31)))
    labels = torch.from_numpy(np.concatenate([own[None], shuffled]).T.copy())
    every = torch.ones_like(labels)
    up = average_precision(highest[rows].flatten(1), labels, every)
    ap, sign = up.ap.numpy(), np.ones(up.ap.shape[1], dtype=int)
    if lowest is not None:
        down = average_precision(-lowest[rows].flatten(1), labels, every).ap.numpy()
        sign, ap = np.where(down[0] > ap[0], -1, 1), np.maximum(ap, down)
    return ap[0], ap[1:], sign, up.auc[0].numpy()


def expert(survey: NeuronSurvey) -> Scored:
    """Largest average precision over the survey's concepts, [layer, neuron], beside shuffled labels. Raises InputError without
    labels."""
    if survey.labelled is None:
        raise InputError(
            "expert needs labelled texts: --data FILE, or from Python find_neurons(model, survey=NeuronSurvey(model, labelled=...))"
        )
    model, labelled = survey.model, survey.labelled
    highest, lowest = survey.responses
    real, null, _, _ = _scores(highest, lowest, labelled, DRAWS, survey.seed)
    score = np.full((model.n_layers, model.d_mlp), np.nan)
    drawn = np.full((DRAWS, model.n_layers, model.d_mlp), np.nan)
    layers, width = list(model.layers_with(SITE)), highest.shape[2]
    score[layers, :width] = real.max(0).reshape(-1, width)
    drawn[:, layers, :width] = null.max(1).reshape(DRAWS, -1, width)
    return Scored(score, drawn, len(labelled.texts), {"concepts": list(labelled.names)})


DETECTOR = Detector("expert", "fires for a concept's texts", expert)
