"""Does the model use the concept? Directions from training rows, changed on held-out rows, beside random controls."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.find.directions.mean_difference import mean_difference, readout_spread
from conceptlab.measure.effects.beside_random import effects_table
from conceptlab.measure.effects.direction_effects import ABLATE, direction_effects
from conceptlab.measure.effects.judges import UNITS, make_judge
from conceptlab.measure.effects.unit_effects import unit_effects
from conceptlab.measure.probing.columns import Problem
from conceptlab.results import Provenance, Scores, Site, Units

if TYPE_CHECKING:
    from conceptlab.atlas.reading import Reading
    from conceptlab.data import Concept
    from conceptlab.model import Model
    from conceptlab.results import Subspace

TOP = 3  # heads or neurons ablated together
Q_MAX = 0.05


@dataclass(frozen=True)
class Use:
    """`effects` has axes intervention x readout; the headline is ablating the direction, read by `reading`."""

    effects: Scores
    effect: float
    interval: tuple[float, float]
    control: float
    kind: str
    warnings: tuple[str, ...]


def measure_use(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    concept: "Concept",
    reading: "Reading",
    problem: Problem,
    curve: np.ndarray,
    units: list[Units],
    provenance: Provenance,
    *,
    n_rows: int = 24,
    n_random: int = 100,
) -> Use:
    """Change the direction at its best layer and the top units, on `n_rows` rows of the first fold.

    `curve` [stream layer] picks the layer; without logits the last one is left out, since nothing would be left to read it.
    """
    from conceptlab.model.replay import prepare_replay

    layer = int(curve.argmax()) if model.has_logits else int(curve[:-1].argmax())
    train, rows = problem.folds != 0, held_out_rows(concept, problem.folds, n_rows)
    fit = {"concept": concept.name, "class_names": concept.class_names, "provenance": provenance}
    here = mean_difference(reading.stream[train, layer], concept.labels[train], site=stream_site(layer), **fit)
    last = mean_difference(reading.stream[train, -1], concept.labels[train], site=stream_site(model.n_layers), **fit)
    labels = concept.labels[rows]
    classes = torch.from_numpy(labels).long().to(model.device) if concept.class_names else None
    sign = (
        None
        if concept.class_names
        else torch.from_numpy(np.sign(labels - np.median(concept.labels))).float().to(model.device)
    )
    replay = prepare_replay(model, reading.batch.select(rows), [reading.read[r] for r in rows])
    judge = make_judge(
        model,
        replay,
        last,
        readout_spread(reading.stream[train, -1], last),
        classes=classes,
        sign=sign,
        words=concept.words,
    )
    spread = readout_spread(reading.stream[train, layer], here)
    kwargs = {"n_random": n_random, "seed": provenance.seed}
    table = direction_effects(replay, judge, here, layer, classes=classes, sign=sign, spread=spread, **kwargs)
    for found, values, layers in _units(reading, units):
        top = found.top(TOP, q_max=Q_MAX)
        if top:
            table |= unit_effects(replay, judge, top, values[train].mean(0).to(model.device), layers, **kwargs)
    data = effects_table(table)
    main = data.sel(intervention=ABLATE, readout=judge.readings[0])
    scores = Scores(data, provenance)
    return Use(
        scores, float(main["score"]), (float(main["low"]), float(main["high"])), float(main["control"]),
        UNITS[judge.readings[0]], (*replay.notes, *judge.notes, *_no_direction(here)),
    )  # fmt: skip


def _no_direction(subspace: "Subspace") -> tuple[str, ...]:
    """What must be said of effects of a direction that is none."""
    if subspace.exists:
        return ()
    return (
        f"at {subspace.site} the labels do not differ, so there is no direction there, and changing it does nothing",
    )


def stream_site(layer: int) -> Site:
    """Stream layer 0 is the embedding, layer l + 1 the stream after block l."""
    return Site("embed") if layer == 0 else Site("resid_post", layer - 1)


def held_out_rows(concept: "Concept", folds: np.ndarray, n_rows: int) -> list[int]:
    """Up to `n_rows` rows of fold 0, the classes in turn (graded: evenly over the range)."""
    rows = np.flatnonzero(folds == 0)
    if not concept.class_names:
        order = rows[np.argsort(concept.labels[rows], kind="stable")]
        return order[np.linspace(0, len(order) - 1, min(n_rows, len(order))).astype(int)].tolist()
    by_class = [rows[concept.labels[rows] == k].tolist() for k in range(len(concept.class_names))]
    turns = [group[i] for i in range(max(map(len, by_class))) for group in by_class if i < len(group)]
    return turns[:n_rows]


def _units(reading: "Reading", units: list[Units]):
    for found in units:
        if found.kind == "head" and reading.z is not None:
            yield found, reading.z, reading.z_layers
        elif found.kind == "neuron" and reading.post is not None:
            yield found, reading.post, reading.post_layers
