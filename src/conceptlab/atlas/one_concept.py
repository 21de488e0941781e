"""One concept on one model: depth with its controls, heads, neurons, direction, use."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from conceptlab.atlas.atlas import ConceptMap
from conceptlab.atlas.reading import Reading, make_problem, read_concept, read_noised, read_quantised
from conceptlab.atlas.use import Q_MAX, measure_use, stream_site
from conceptlab.errors import DataError
from conceptlab.find.directions.mean_difference import mean_difference
from conceptlab.find.heads.readable_heads import readable_heads
from conceptlab.find.neurons.readable_neurons import readable_neurons
from conceptlab.measure.probing.columns import Problem
from conceptlab.measure.probing.control_task import control_task
from conceptlab.measure.probing.description_length import description_length
from conceptlab.measure.probing.layer_probe import LayerProbe, held_out_curve, probe_layers
from conceptlab.numerics.linear_fit import Rotated, rotated_layers
from conceptlab.results import Provenance, Scores, Units

if TYPE_CHECKING:
    from conceptlab.data import Concept
    from conceptlab.model import Model

SHOWN = 3  # top heads and neurons named in tables


def map_concept(  # noqa: PLR0913 - the settings of a run
    model: "Model",
    concept: "Concept",
    provenance: Provenance,
    *,
    permutations: int,
    quick: bool,
    n_random: int,
    on_step: Callable[[], None] = lambda: None,
) -> ConceptMap:
    """Map one concept. `found` and `q` are left open: they are decided over all concepts of the run."""
    seed, before = provenance.seed, model.forwards
    problem = make_problem(concept, permutations, seed)
    reading = read_concept(model, concept)
    on_step()
    names = layer_names(model.n_layers)
    rotated = list(rotated_layers(reading.stream))
    probe = probe_layers(rotated, problem, concept.groups, layer_names=names, seed=seed)
    on_step()
    warnings = [*reading.warnings, *_few_shuffles(problem)]
    curve = _with_controls(probe, rotated, reading, concept, problem, seed)
    del rotated
    for name, stream in _robustness(model, concept, reading, quick, seed, warnings):
        curve[name] = ("layer", held_out_curve(stream, problem))
    on_step()
    units = _units(reading, problem, provenance)
    use = measure_use(
        model, concept, reading, problem, probe.curve["score"].values, units, provenance, n_random=n_random
    )
    on_step()
    warnings += use.warnings
    provenance = replace(provenance, n=concept.n, passes=round(model.forwards - before), warnings=tuple(warnings))
    best = probe.best_layer
    direction = mean_difference(
        reading.stream[:, best], concept.labels, site=stream_site(best), concept=concept.name,
        class_names=concept.class_names, provenance=provenance,
    )  # fmt: skip
    heads, neurons = (next((u for u in units if u.kind == kind), None) for kind in ("head", "neuron"))
    return ConceptMap(
        name=concept.name, kind=concept.kind, class_names=concept.class_names, n=concept.n, metric=probe.metric,
        found=False, p=probe.p, q=float("nan"), best_layer=names[best], score=probe.score, score_interval=probe.interval,
        control=probe.control, jump=probe.jump, settled=probe.settled, effect=use.effect, effect_interval=use.interval,
        effect_control=use.control, effect_kind=use.kind, depth=Scores(curve, provenance), heads=heads, neurons=neurons,
        direction=direction, effects=use.effects, top_heads=_top(heads), top_neurons=_top(neurons), warnings=tuple(warnings),
    )  # fmt: skip


def layer_names(n_layers: int) -> list[str]:
    """The stream's layer axis: embed, 0 … L-1."""
    return ["embed", *map(str, range(n_layers))]


def _top(units: Units | None) -> tuple[str, ...]:
    return () if units is None else tuple(map(str, units.top(SHOWN, q_max=Q_MAX)))


def _few_shuffles(problem: Problem) -> list[str]:
    """A warning where the labels of few groups cannot be shuffled in many ways, which bounds p from below."""
    shuffled = problem.labels[1:]
    ways = len(np.unique(shuffled, axis=0))
    if ways > len(shuffled) / 2:
        return []
    return [
        f"labels can be shuffled in only about {ways} ways between the groups of a fold; more groups allow a smaller p"
    ]


def _with_controls(
    probe: LayerProbe, rotated: list[Rotated], reading: Reading, concept: "Concept", problem: Problem, seed: int
) -> xr.Dataset:
    """The depth table with the control task, its selectivity, and the code length's compression beside its shuffled one."""
    types = reading.token if len(np.unique(reading.token)) > 1 or concept.groups is None else concept.groups
    task = control_task(rotated, concept.labels, concept.kind, types, seed=seed)
    compression = description_length(rotated, concept.labels, concept.kind, control=problem.labels[1:4], seed=seed)
    columns = {
        "control_task": task.control.mean(1),
        "selectivity": task.selectivity,
        "compression": compression[:, 0],
        "compression_control": compression[:, 1:].mean(1)
        if compression.shape[1] > 1
        else np.full(len(compression), np.nan),
    }
    return probe.curve.assign({name: ("layer", values) for name, values in columns.items()})


def _robustness(model: "Model", concept: "Concept", reading: Reading, quick: bool, seed: int, warnings: list[str]):
    """Streams under noised inputs and under int8 weights; what cannot be run is said in `warnings`."""
    if quick:
        return
    try:
        yield "noised", read_noised(model, concept, seed)
    except DataError as error:
        warnings.append(f"noised inputs were left out: {error}")
    yield "quantised", read_quantised(model, reading)


def _units(reading: Reading, problem: Problem, provenance: Provenance) -> list[Units]:
    found = []
    if reading.z is not None:
        found.append(readable_heads(reading.z, problem, reading.z_layers, provenance))
    if reading.post is not None:
        found.append(readable_neurons(reading.post, problem, reading.post_layers, provenance))
    return found
