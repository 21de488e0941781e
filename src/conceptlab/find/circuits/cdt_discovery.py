"""Circuit discovery by contextual decomposition (CD-T): from the logits downwards, the strongest sources become the next targets.

Hsu et al. 2025. One call of `measure/attribution/contextual_decomposition.py` gives what of every sender arrives at every receiver.
The search starts at the logits, takes the `width` strongest new senders of a round (share of the receiver's input), adds their
query, key, value or MLP inputs to the targets, and ends after `rounds` or where nothing is left. Departures: targets stay targets
in later rounds; an edge must stand out from
random writes of the same size (q <= `level` over everything that was searched), so that a model without a circuit gives an empty
one; the embedding is a leaf and takes no place in a round. Last, nodes whose absence changes the metric of the circuit by less
than `min_effect` of what all heads and MLPs do are taken away, weakest first; what is outside the circuit is held at the
reference, and the faithfulness of what is left stands beside that of random sets of equal size. Where the metric of the whole model
and that of no node do not differ more than chance over the rows there is nothing to explain, and the circuit is empty.

An edge holds all that arrives of the source, directly or through the values of what lies between; queries and keys are seen as
receivers, so heads that act through them are found, although their score at the logits is 0.

Cost: that of the decomposition; one forward for each node of the circuit in every round of pruning, and one for each random set.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from conceptlab.measure.attribution.contextual_decomposition import contextual_decomposition
from conceptlab.measure.attribution.removal import Against, Reference, kept_only, reference_of
from conceptlab.measure.circuits.ends import Ends
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import Metric
from conceptlab.model.split_rules import Rule
from conceptlab.numerics.ranks import auc
from conceptlab.results import Circuit, GraphShape, Scores

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.model.model import Texts

CARD = {
    "name": "CD-T circuit discovery",
    "paper": "Hsu et al. 2025, Mechanistic Interpretation through Contextual Decomposition in Transformers",
    "tags": ["circuits", "decomposition"],
    "takes": "a model, texts, a metric of named logits, reference texts",
    "returns": "Circuit",
    "cost": "that of contextual decomposition, and a forward a node for every round of pruning",
}
SHARE = (
    "share of a receiver's query, key, value or neuron values that came from the sender, mean over positions and rows"
)
FAITHFUL = 0.5  # a circuit that carries less of the metric is returned as found, since every node of it can be missed
SIGN = "at logits the sign of the sender's contribution to the metric, elsewhere positive"


def cdt_discovery(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    clean: "Texts",
    metric: Metric,
    *,
    reference: "Texts | None" = None,
    against: Against = "mean",
    rule: Rule = "fixed",
    width: int = 2,
    rounds: int | None = None,
    level: float = 0.05,
    min_effect: float = 0.02,
    n_random: int = 8,
    seed: int = 0,
    scores: Scores | None = None,
) -> Circuit:
    """Find the circuit of `metric` on the texts `clean`; arguments as in `contextual_decomposition` and in this module's text.

    `weights` are shares (negative at logits where the sender works against the metric) beside `control`, that of random writes, p
    and q. `provenance.settings` holds `faithfulness` (metric with all else at the reference, 0 = no head or MLP, 1 = the model),
    `faithfulness_random` (mean and largest of 20 random sets of as many nodes), the costs in forwards and the sum's error.
    `min_effect=0` prunes nothing; `scores` are those of `contextual_decomposition` on the same, where they are known. Raises as
    that does.
    """
    given = {"reference": reference, "against": against, "rule": rule, "n_random": n_random, "seed": seed}
    scores = scores or contextual_decomposition(model, clean, metric, **given)  # type: ignore[arg-type]
    found = search(scores, graph_of(model), width=width, rounds=rounds, level=level)
    held = reference_of(model, clean, reference, against)
    found, more, warnings = _pruned(found, held, metric, min_effect, seed)
    settings = {
        **scores.provenance.settings,
        "width": width,
        "rounds": rounds,
        "level": level,
        "min_effect": min_effect,
        **more,
    }
    warnings = (*scores.provenance.warnings, *warnings)
    provenance = replace(
        scores.provenance, method="cdt_discovery", settings=settings, causal="ablation", warnings=warnings
    )
    return replace(found, provenance=provenance, metric=metric.name)


def search(
    scores: Scores, shape: GraphShape, *, width: int = 2, rounds: int | None = None, level: float = 0.05
) -> Circuit:
    """The search alone, on the scores of `contextual_decomposition`: no further pass of the model. `rounds` None: layers + 1."""
    share, q, control, p = (scores[name].values for name in ("share", "edge_q", "share_control", "edge_p"))
    signed, logits = np.where(np.isnan(share), 0.0, share), len(shape.receivers) - 1
    signed[:, logits] *= np.sign(scores["score"].values)
    allowed = q <= level
    allowed[:, logits] = scores["q"].values <= level
    allowed[0, logits] = False  # the embedding as a whole says nothing about a circuit
    targets, seen = {logits}, {0}
    for _ in range((shape.n_layers + 1) if rounds is None else rounds):
        best = np.where(allowed[:, sorted(targets)], np.abs(signed[:, sorted(targets)]), 0.0).max(1)
        best[sorted(seen)] = 0.0
        chosen = {int(s) for s in np.argsort(-best, kind="stable")[:width] if best[s] > 0}
        if not chosen:
            break
        seen, targets = seen | chosen, targets | _inputs_of(shape, chosen)
    edges = [(s, t) for s in sorted(seen) for t in sorted(targets) if allowed[s, t]]
    source, target = (np.array([e[i] for e in edges], dtype=np.int32) for i in (0, 1))
    here = (source, target)
    q = np.where(np.arange(len(shape.receivers)) == logits, scores["q"].values[:, None], q)
    p = np.where(np.arange(len(shape.receivers)) == logits, scores["p"].values[:, None], p)
    columns = {"control": control[here], "p": p[here], "q": q[here], "site": SHARE, "sign_convention": SIGN}
    return Circuit(shape, source, target, signed[here], scores.provenance, **columns)  # type: ignore[arg-type]


def node_strength(scores: Scores, shape: GraphShape) -> np.ndarray:
    """One number a sender [sender]: the largest product of shares on a way from it to the logits, for rankings and AUC."""
    share = np.nan_to_num(scores["share"].values)
    strength = np.zeros(len(shape.senders))
    receiver, served = shape.serves
    for sender in range(len(shape.senders) - 1, -1, -1):
        through = share[sender, receiver] * strength[served]
        strength[sender] = max(share[sender, -1], through.max(initial=0.0))
    return strength


def head_auc(scores: Scores, shape: GraphShape, planted: Iterable[str]) -> float:
    """Area under the ROC curve of the strength of all heads against the `planted` ones ("L0.H1"); ties count half."""
    heads = np.flatnonzero(shape.senders.kind == "head")
    true = np.isin(np.array(shape.senders.names)[heads], list(planted))
    strength = torch.from_numpy(node_strength(scores, shape)[heads])
    return float(auc(strength[:, None], torch.from_numpy(true)[:, None])[0])


def _inputs_of(shape: GraphShape, senders: Iterable[int]) -> set[int]:
    receiver, served = shape.serves
    return {int(r) for r in receiver[np.isin(served, list(senders))]}


def _pruned(
    circuit: Circuit, held: Reference, metric: Metric, min_effect: float, seed: int
) -> tuple[Circuit, dict[str, object], tuple[str, ...]]:
    """Take away nodes that the circuit does not need, weakest first; how faithful what is left is, and what to warn of."""
    n = len(circuit.shape.senders)
    nodes = [int(s) for s in np.flatnonzero(circuit.node_mask()) if s]
    ends, cost = kept_only(held, metric, [np.ones(n, bool), np.zeros(n, bool), _mask(n, nodes)])
    warnings = Ends(ends[0], ends[1]).warnings
    nodes = [] if warnings else nodes
    whole, nothing, found = ends.mean(1)
    carries = abs(found - nothing) >= FAITHFUL * abs(whole - nothing)
    while nodes and carries and min_effect > 0:
        sets = [_mask(n, nodes), *(_mask(n, [m for m in nodes if m != node]) for node in nodes)]
        values, paid = kept_only(held, metric, sets)
        change, cost = np.abs(values[1:].mean(1) - values[0].mean()), cost + paid
        if change.min() >= min_effect * abs(whole - nothing):
            break
        del nodes[int(change.argmin())]
    rng = np.random.default_rng(seed)
    drawn = [_mask(n, 1 + rng.choice(n - 1, len(nodes), replace=False)) for _ in range(20 if nodes else 0)]
    values, paid = kept_only(held, metric, [_mask(n, nodes), *drawn])
    f = (values.mean(1) - nothing) / (whole - nothing) if abs(whole - nothing) > 1e-3 else np.full(len(values), np.nan)
    beside = [float(f[1:].mean()), float(f[1:].max())] if len(drawn) else []
    kept = np.isin(circuit.source, [0, *nodes]) & _reaches(circuit, nodes)
    more = {"faithfulness": float(f[0]), "faithfulness_random": beside, "pruning_forwards": round(cost + paid, 2)}
    return circuit.select(kept & (not warnings)), more, warnings


def _reaches(circuit: Circuit, nodes: list[int]) -> np.ndarray:
    """bool [edge]: whether an edge enters the logits or an input of one of the nodes."""
    allowed = _inputs_of(circuit.shape, nodes) | {len(circuit.shape.receivers) - 1}
    return np.isin(circuit.target, list(allowed))


def _mask(n: int, kept: Iterable[int]) -> np.ndarray:
    mask = np.zeros(n, dtype=bool)
    mask[list(kept)] = True
    return mask
