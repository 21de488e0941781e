"""Edge attribution patching with integrated gradients (EAP-IG): the gradient averaged over a way from the corrupted to the clean
input.

Source: Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness. Scores are those of `edge_attribution` with the gradient at
every receiver averaged over `steps` inputs between the two rows' embeddings (variant "inputs"), or over the two rows themselves
("clean-corrupted"). Midpoints of the steps by default; rule="left" starts at the corrupted row, as the published code does.
What the embedding's edges add up to is, for many steps, the change of the metric (completeness): `ig_gap` says how far that is
off, and above 5 % more steps are needed. Interpolated inputs are no text, and learned positions cancel where they are equal.

Cost: 2 forwards (one batch), and `steps` forwards and backwards a pair, all steps in one batch; the scores themselves cost as
much as without steps, since gradients are averaged before edges are formed. Memory: `steps` graphs a pair, within a budget.
"""

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.find.circuits.edge_scores import EdgeScores, circuit_of, score_edges
from conceptlab.measure.patching.pairs import make_pairs
from conceptlab.model.metric import Metric
from conceptlab.results import Circuit
from conceptlab.runs import SILENT, Progress

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.model.model import Texts

CARD = {
    "name": "edge attribution with integrated gradients (EAP-IG)",
    "paper": "Hanna, Pezzelle and Belinkov 2024, Have Faith in Faithfulness",
    "tags": ["circuits", "attribution", "edges"],
    "takes": "a model, clean and corrupted texts of equal length, a metric",
    "returns": "Circuit",
    "cost": "2 forwards, and a forward and a backward a step, for all edges",
}
Variant = Literal["inputs", "clean-corrupted"]
Rule = Literal["midpoint", "left"]
COMPLETE = 0.05


def edge_attribution_ig(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    clean: "Texts",
    corrupted: "Texts",
    metric: Metric,
    *,
    steps: int = 5,
    variant: Variant = "inputs",
    rule: Rule = "midpoint",
    n_exact: int = 0,
    n_random: int = 10,
    budget_bytes: int | None = None,
    tokens_at_once: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Circuit:
    """Score every edge as `edge_attribution` does, with averaged gradients.

    `provenance.settings` holds `ig_gap`, |sum of the embedding's edges - (M_corrupted - M_clean)| / |M_corrupted - M_clean| of
    the mean over rows (variant "inputs"); a warning says when it is above 5 %. At most about `tokens_at_once` tokens run together
    (None: as many as the budget holds).
    Raises InputError for an unknown variant or rule or no steps, and otherwise as `edge_attribution` does.
    """
    if variant not in ("inputs", "clean-corrupted") or rule not in ("midpoint", "left") or steps < 1:
        raise InputError(
            f'variant={variant!r}, rule={rule!r}, steps={steps}: use "inputs" or "clean-corrupted", "midpoint" or "left", at least '
            "1 step"
        )
    pairs = make_pairs(model, clean, corrupted, "noising")
    pair = pairs.base, pairs.donor
    at = ways(steps, rule) if variant == "inputs" else [1.0, 0.0]

    def points(ours: Tensor, theirs: Tensor) -> Tensor:
        return torch.stack([theirs + share * (ours - theirs) for share in at])

    found = score_edges(
        model,
        *pair,
        metric,
        points=points,
        n_points=len(at),
        n_random=n_random,
        budget_bytes=budget_bytes,
        tokens_at_once=tokens_at_once,
        seed=seed,
        progress=progress,
    )
    gap = ig_gap(found) if variant == "inputs" else float("nan")
    if gap > COMPLETE:
        found.warnings.append(f"the scores miss {gap:.0%} of the metric's change with {steps} steps; use more steps")
    settings: dict[str, object] = {"variant": variant, "rule": rule, "steps": len(at), "ig_gap": gap}
    return circuit_of(
        model, found, metric, "EAP-IG", settings, pair=pair, n_exact=n_exact, seed=seed, progress=progress
    )


def ways(steps: int, rule: Rule) -> list[float]:
    """Shares of the clean input: midpoints of equal steps, or their beginnings (the corrupted row first)."""
    return [(k + (0.5 if rule == "midpoint" else 0.0)) / steps for k in range(steps)]


def ig_gap(found: EdgeScores) -> float:
    """How far the embedding's edges are from adding up to the change of the metric, as a share of it; NaN where that is 0."""
    change = float((found.clean - found.corrupted).mean())
    return abs(float(found.embedding.mean()) - change) / abs(change) if change else float("nan")
