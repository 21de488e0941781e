"""Contextual decomposition for transformers (CD-T): what each head, MLP and the embedding gave to a logit and to later inputs.

Hsu et al. 2025 (Mechanistic Interpretation through Contextual Decomposition in Transformers), after Murdoch et al. 2018 and
Singh et al. 2019. Every activation is split into a relevant part, which starts as what one source writes (less what it writes on a
reference), and an irrelevant part, the rest; both go through the model's own blocks and always add up to the true activation. What
arrives as relevant at the logits is the source's score; what arrives at the query, key and value inputs of later heads and at
the neurons of later MLPs are the edges of the search in `find/circuits/cdt_discovery.py`.

Rules (`model/split_rules.py`, `model/decomposed.py`): biases are shared by size, norms keep the scale of the whole, at neurons the
irrelevant part goes first and the relevant one is the rest. The attention rule is not unique, so it is named:
`fixed` (default) mixes both parts with the pattern of the whole, as the first version for BERT did: exact for what moves through
values, and the scores of all sources add up. `relevant` is that of the later public code, softmax(q_rel k_rel) v_rel: it
spreads a routed value evenly where queries or keys of the source are silent. `removal` lets the irrelevant part attend alone:
the score is then the effect of taking the source out, norm scales held.

**Blind spot.** `fixed` and `relevant` do not see what a source does through queries and keys. In the indirect-object world L1.H0
scores +0.000 under both (as published: -0.003) while taking it out changes the metric by 9.4 of 7.0; it is found as an edge into
L2.H0.q (share 0.49 there). So `removal`, the true effect of setting the source to its reference, stands beside every score, and a
warning names the sources whose score misses it.

Departures: the published sign renormalisation after each block is left out (it breaks additivity); positions are not separate
sources; soft caps of the logits are taken off first.
Cost in forward-equivalents of a row: two for each source times the share of blocks above it, (1 + n_random) times; `removal` is
an exact sweep. Memory: streams, neurons and heads of a group of rows, and `batch` split copies of a row.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.measure.attribution.arrivals import Tally
from conceptlab.measure.attribution.removal import Against, reference_of, removal_effects
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.metric import Metric
from conceptlab.model.split_rules import RULES, Rule
from conceptlab.model.split_sources import Sources, record_split
from conceptlab.numerics.rotations import random_signs, rotated
from conceptlab.results import Provenance, Scores
from conceptlab.results.graph import GraphShape

if TYPE_CHECKING:
    from conceptlab.model import Model
    from conceptlab.model.model import Texts

CARD = {
    "name": "contextual decomposition (CD-T)",
    "paper": "Hsu et al. 2025, Mechanistic Interpretation through Contextual Decomposition in Transformers",
    "tags": ["attribution", "circuits", "decomposition"],
    "takes": "a model, texts, a metric of named logits, reference texts",
    "returns": "Scores",
    "cost": "2 forwards of the blocks above it for each source and row, (1 + n_random) times; no backward",
}

BLIND = 0.1  # a score below this share of the effect of removal is called blind, where that is this share of the metric


def contextual_decomposition(  # noqa: PLR0913 - one experiment, fully stated
    model: "Model",
    clean: "Texts",
    metric: Metric,
    *,
    reference: "Texts | None" = None,
    against: Against = "mean",
    rule: Rule = "fixed",
    n_random: int = 8,
    batch: int = 64,
    seed: int = 0,
) -> Scores:
    """Split the run of every sender and read what arrives. `metric` must be linear in named logits (`logit`, `logit_diff`).

    `reference` texts say what of a source's output counts as irrelevant: their mean at each position (`against="mean"`; rows of the
    same lengths as `clean`) or, row by row, that of a partner of equal length (`"paired"`); None: nothing, all of it is relevant.
    `batch` pairs of source and row run together.

    Axes: `sender` (embed, L0.H1, L0.mlp), `receiver` (L0.H1.q, .k, .v, L0.mlp, logits). `score` [sender] is the relevant part of
    the metric, mean over rows with its 95 % interval; `control` the mean size of the same when what the source writes is turned by
    a random rotation (`n_random` draws, 0 or at least 3), p two-sided from their spread, q over the heads and MLPs that
    write anything (the embedding is not tested).
    `removal` [sender] is the drop of the metric with the source at its reference. `share` [sender, receiver] is mean |relevant| /
    (mean |relevant| + mean |irrelevant|) of a receiver's input over all positions, beside `share_control`, `edge_p` (one-sided,
    from the size of what arrived) and `edge_q` (over all edges that exist; NaN elsewhere).
    `provenance.settings` holds `sum_error`, the largest relative miss of relevant + irrelevant, beside `apart_error`, that of the
    embedding's two parts run each alone without rules; and `forwards`, `control_forwards`, `removal_forwards` of all rows.
    Raises InputError for another kind of metric or unequal partners, SiteError where a block cannot be decomposed.
    """
    check_request(metric, rule, n_random)
    held, shape = reference_of(model, clean, reference, against), graph_of(model)
    before, tally = model.forwards, Tally(shape, len(held.clean), n_random)
    signs = random_signs((n_random, len(shape.senders)), model.d_model, seed)
    for rows in held.groups:
        made, written = record_split(model, held.clean.select(rows), rule)
        sources = Sources(made, shape, written, written.minus(held.base(rows)))
        _propagate(sources, metric, torch.tensor(rows), signs, tally, batch)
        start = torch.cat([sources.difference.embed, written.embed - sources.difference.embed])
        tally.apart_error = max(tally.apart_error, made.apart(start))
        tally.sum_error = max(tally.sum_error, made.sum_error)
    tally.removal[:], tally.removal_forwards = removal_effects(held, metric)
    settings = {"rule": rule, "against": against if reference is not None else "nothing", "n_random": n_random}
    provenance = Provenance(
        "contextual_decomposition",
        len(held.clean),
        seed,
        model.name,
        model.revision,
        settings={**settings, **tally.costs, "sum_error": tally.sum_error, "apart_error": tally.apart_error},
        passes=round(model.forwards - before),
        causal="none",
        warnings=blind_spots(tally, shape, rule),
    )
    return Scores(tally.dataset(seed), provenance)


def linear_in_logits(metric: Metric) -> bool:
    """Whether a metric is a fixed linear combination of named logits at the last position, tried on made-up logits."""
    if metric.tokens is None or metric.site is not None or metric.position != "last":
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, *metric.tokens.shape, generator=generator, dtype=torch.float64)
    rows = torch.arange(len(a))
    return torch.allclose(metric.of(a, rows) - 2 * metric.of(b, rows), metric.of(a - 2 * b, rows))


def check_request(metric: Metric, rule: Rule, n_random: int) -> None:
    """Raise InputError for an unknown rule, a metric that is not linear in named logits, or draws without a spread."""
    if n_random < 0 or n_random in (1, 2):
        raise InputError(f"{n_random} random draws have no spread; give 0 (no control) or at least 3")
    if rule not in RULES:
        raise InputError(f"no attention rule is called {rule!r}; the rules are {', '.join(RULES)}")
    if not linear_in_logits(metric):
        raise InputError(
            f"contextual decomposition splits logits, so {metric.name} cannot be read from it; use logit or logit_diff"
        )


def _propagate(group: Sources, metric: Metric, rows: Tensor, signs: Tensor, tally: Tally, batch: int) -> None:
    """Every source in every row, then the random ones, in batches of pairs that start in one layer."""
    tokens = metric.tokens[rows]  # type: ignore[index]
    made = group.decomposer
    for layer, senders in group.by_layer():
        pairs = torch.cartesian_prod(senders, torch.arange(len(rows))).to(made.run.streams.device)
        for sender, row in (chunk.unbind(1) for chunk in pairs.split(batch)):
            start = made.forwards
            arrived = group.propagate(layer, sender, row, tokens[row.cpu()])
            tally.add(sender, rows[row.cpu()], arrived, metric)
            tally.forwards, start = tally.forwards + made.forwards - start, made.forwards
            for draw, drawn in enumerate(signs):
                turned = rotated(arrived.written, drawn.to(sender.device)[sender][:, None])
                beside = group.propagate_random(layer, sender, row, tokens[row.cpu()], turned)
                tally.add(sender, rows[row.cpu()], beside, metric, draw)
            tally.control_forwards += made.forwards - start


def blind_spots(tally: Tally, shape: GraphShape, rule: Rule) -> tuple[str, ...]:
    """A sentence on the senders whose removal matters and whose score does not show it."""
    score, removal, whole = tally.relevant.mean(1), tally.removal.mean(1), abs(tally.whole.mean())
    unseen = (np.abs(removal) >= BLIND * whole) & (np.abs(score) < BLIND * np.abs(removal))
    if not unseen.any():
        return ()
    named = [
        f"{shape.senders.names[i]} (score {score[i]:+.3f}, removal {removal[i]:+.3f})" for i in np.flatnonzero(unseen)
    ]
    return (
        f"the rule {rule!r} does not see what these do through queries and keys: {', '.join(named)}; look at their edges, "
        "or use rule='removal'",
    )
