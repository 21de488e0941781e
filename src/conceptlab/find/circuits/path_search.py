"""Iterative path patching: from the logits downwards, strong senders become the next receivers (Wang et al. 2023).

Round by round `measure/patching/path_patching.py` measures every sender on the query, key, value and MLP inputs of the nodes found
so far, starting with the logits. An edge is kept where its effect is at least `min_effect` of the whole and stands out from random
changes of the same length (q <= `level` within its round). Wang et al. choose by eye and patch the inputs of several heads at
once; Merullo et al. 2024 keep the strongest 2 % of heads a round (`most`). Here every edge is patched alone, so each has its own
effect, interval and control. Exact for each edge, but a path whose first edge hides behind a backup is not seen.

Cost: that of path patching over all senders for every receiver of the circuit.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from conceptlab.errors import InputError
from conceptlab.measure.patching.path_patching import Freeze, path_patching
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit, GraphShape, Provenance, Scores
from conceptlab.runs import SILENT, Progress

if TYPE_CHECKING:
    from conceptlab.model import Model

CARD = {
    "name": "iterative path patching",
    "paper": "Wang et al. 2023, Interpretability in the Wild; Merullo et al. 2024, Circuit Component Reuse",
    "tags": ["circuits", "patching"],
    "takes": "a model, clean and corrupted texts of one length, a metric",
    "returns": "Circuit",
    "cost": "path patching of all senders on every receiver of the circuit",
}
COLUMNS = ("low", "high", "control", "p", "q")
Edges = dict[tuple[str, str], tuple[float, ...]]  # by (sender, receiver): effect, then COLUMNS


def path_search(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    clean: Sequence[str],
    corrupted: Sequence[str],
    metric: Metric,
    *,
    min_effect: float = 0.02,
    level: float = 0.05,
    most: int | None = None,
    rounds: int | None = None,
    freeze: Freeze = "heads",
    seed: int = 0,
    progress: Progress = SILENT,
) -> Circuit:
    """Find the circuit of `metric`; `weights` are normalised effects of single edges, `exact` the same.

    `most` new nodes at most are followed a round, the strongest (None: all that pass), and `rounds` None goes on until no node is
    new. Edges of nodes that are not followed are left out; those of the text's embedding stay. Raises InputError for limits that
    let nothing through, and as `path_patching` does, among others where clean and corrupted texts score the same.
    """
    _check(min_effect, level, most, rounds)
    shape, before = graph_of(model), model.forwards
    targets, seen, found, said = ["logits"], {"embed"}, [], []
    while targets and (rounds is None or len(found) < rounds):
        scores = path_patching(
            model, list(clean), list(corrupted), metric, receivers=targets, senders=shape.senders.names, freeze=freeze,
            seed=seed, progress=progress,
        )  # fmt: skip
        said += scores.provenance.warnings
        strong = _strong(scores, min_effect, level)
        new = _strongest(strong, seen, most)
        seen |= new
        found.append({edge: values for edge, values in strong.items() if edge[0] in seen})
        targets = _inputs_of(shape, new)
    settings = {"min_effect": min_effect, "level": level, "most": most, "rounds": len(found), "freeze": freeze}
    provenance = Provenance(
        "iterative path patching", len(clean), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), causal="patching", warnings=tuple(dict.fromkeys(said)),
    )  # fmt: skip
    return _circuit(shape, found, provenance, metric.name)


def _check(min_effect: float, level: float, most: int | None, rounds: int | None) -> None:
    if not min_effect >= 0 or not 0 < level <= 1:
        raise InputError(f"min_effect={min_effect}, level={level}: give min_effect >= 0 and 0 < level <= 1")
    for name, limit in (("most", most), ("rounds", rounds)):
        if limit is not None and limit < 1:
            raise InputError(f"{name}={limit} finds nothing; give 1 or more, or None for no limit")


def _strong(scores: Scores, min_effect: float, level: float) -> Edges:
    """Edges of one round with their effect, interval, control, p and q."""
    table = scores.data
    effect = np.abs(table["score"].values)
    kept = (effect >= min_effect) & (effect > 0) & (table["q"].values <= level)
    senders, receivers = (table[name].values.tolist() for name in ("sender", "receiver"))
    columns = [table[name].values for name in ("score", *COLUMNS)]
    return {(senders[s], receivers[r]): tuple(float(c[r, s]) for c in columns) for r, s in np.argwhere(kept)}


def _strongest(strong: Edges, seen: set[str], most: int | None) -> set[str]:
    """The nodes not seen before with the largest |effect| on any receiver of this round, `most` at most."""
    best: dict[str, float] = {}
    for (sender, _), values in strong.items():
        if sender not in seen:
            best[sender] = max(best.get(sender, 0.0), abs(values[0]))
    return set(sorted(best, key=lambda name: (-best[name], name))[:most])


def _inputs_of(shape: GraphShape, nodes: set[str]) -> list[str]:
    """The receivers from which these heads and MLPs compute."""
    receiver, served = shape.serves
    numbers = [shape.sender(name) for name in nodes]
    return [shape.receivers.names[r] for r in sorted({int(r) for r in receiver[np.isin(served, numbers)]})]


def _circuit(shape: GraphShape, found: list[Edges], provenance: Provenance, metric: str) -> Circuit:
    edges: Edges = {}
    for step in found:
        edges |= step
    named = [(a, b, values[0]) for (a, b), values in edges.items()]
    table = np.array(list(edges.values())).reshape(len(edges), 1 + len(COLUMNS))
    columns = {name: table[:, 1 + i] for i, name in enumerate(COLUMNS)}
    return Circuit.from_edges(shape, named, provenance, metric=metric, exact=table[:, 0], **columns)
