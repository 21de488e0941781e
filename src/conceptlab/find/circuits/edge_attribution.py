"""Edge attribution patching (EAP): a first-order score of every edge of the model from two forwards and one backward a pair.

Source: Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery. score(u -> v) = sum over
positions and dimensions of (what u writes on the corrupted row - what it writes on the clean one) x (gradient of the metric, on
the clean row, at what v alone reads), divided by M_corrupted - M_clean: 1 means that corrupting the edge does, to first order,
all that the whole corruption does. Signed, averaged over rows before any size is taken.

Queries, keys and values are receivers apart, keys and values per key/value head. Where a sublayer norms its own output (Gemma-2,
OLMo-2), a head's part is taken with the norm's scale of the run that it stands in, so that changes add up. Beside each score
stands the root mean square of the same score with random changes as long at every position; p asks that the score be larger than
those (`evidence/moderated.py`) and agree in sign over rows; q is over every edge that any change moves. Known to fail where a
softmax is saturated (scores through queries and keys are then far too small): `n_exact` measures it, `edge_attribution_ig`
repairs most of it.

Cost: 2 forwards without the unembedding and 1 backward to the stream a pair, and about as much again for all edges of a short
prompt (measured: 3 bare forwards in all). Memory: senders x pos x d_model floats a pair beside the graph, within a budget.
"""

from typing import TYPE_CHECKING

from conceptlab.find.circuits.edge_scores import circuit_of, score_edges
from conceptlab.measure.patching.pairs import make_pairs
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit
from conceptlab.runs import SILENT, Progress

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.model.model import Texts

CARD = {
    "name": "edge attribution patching (EAP)",
    "paper": "Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery",
    "tags": ["circuits", "attribution", "edges"],
    "takes": "a model, clean and corrupted texts of equal length, a metric",
    "returns": "Circuit",
    "cost": "2 forwards and 1 backward a pair for all edges",
}


def edge_attribution(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    clean: "Texts",
    corrupted: "Texts",
    metric: Metric,
    *,
    n_exact: int = 0,
    n_random: int = 10,
    budget_bytes: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Circuit:
    """Score every edge; `.top(n)` and `.top(n).pruned()` of the result are circuits.

    `n_exact` patches so many of the largest edges exactly (`exact`), and `provenance.settings["calibration"]` says how far sizes
    may be believed. Where clean and corrupted rows score alike weights are NaN, and where they do not differ more than chance p
    is 1 (`provenance.warnings` says so). Raises InputError for pairs of unequal length, equal pairs, a metric whose gradient is
    0 on the clean rows or is not of the logits, and a budget too small for one pair; SiteError where the model's pieces do not
    add up.
    """
    pairs = make_pairs(model, clean, corrupted, "noising")
    pair = pairs.base, pairs.donor
    found = score_edges(
        model, *pair, metric, n_random=n_random, budget_bytes=budget_bytes, seed=seed, progress=progress
    )
    settings: dict[str, object] = {"gradient_at": "clean"}
    return circuit_of(
        model,
        found,
        metric,
        "edge attribution patching",
        settings,
        pair=pair,
        n_exact=n_exact,
        seed=seed,
        progress=progress,
    )
