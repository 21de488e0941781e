"""Which heads look at a part of the text more in some texts than in others: at its thoughts, where it goes on to comply?

Score: attention from the last token to the span, mean over the texts marked True less the mean over the others. Control: the same
under shuffled marks (within texts of one length, since attention thins out in longer ones); p from the null pooled over all heads,
two-sided, q over all heads. Attention is no effect: `set_effects` says what the best of them do.
Source: R5 of the methods' specification (refusal heads). Cost: one forward of the texts with the attention of their last tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch

from conceptlab.errors import InputError
from conceptlab.find.detector import Scored, ranked
from conceptlab.model import Batch, Model
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Units

CARD = {
    "name": "heads that watch a span",
    "paper": "When Thinking Backfires: Mechanistic Insights Into Reasoning-Induced Misalignment",
    "tags": ["heads", "attention"],
    "takes": "a model, texts, a span of each, marks",
    "returns": "Units",
    "cost": "one forward of the texts",
}


def span_heads(
    model: Model,
    texts: Texts,
    spans: Sequence[Sequence[int]],
    marked: Sequence[bool],
    *,
    n_permutations: int = 200,
    seed: int = 0,
) -> Units:
    """Rank heads by |difference of attention to `spans` [row] (real-token positions) between marked and other texts|.

    The table also has `signed` (above 0: the marked ones look there more). Raises InputError where a text has no span, or no length
    has texts of both kinds; SiteError where no layer's attention can be seen.
    """
    batch, before = model.encode(texts), model.forwards
    marks = np.asarray(marked, dtype=bool)
    groups = _lengths(batch, spans, marks)
    layers = model.layers_with("pattern")
    if not layers:
        model.tap("pattern", 0)  # says why no layer has it
    mass = np.full((len(batch), model.n_layers, model.n_heads), np.nan)
    for rows in groups:
        seen = model.capture(batch.select(rows), "pattern")["pattern"].float()  # [row, layer, head, key]
        where = torch.zeros(len(rows), seen.shape[-1], dtype=seen.dtype)
        for place, row in enumerate(rows):
            where[place, [p % batch.lengths[row] for p in spans[row]]] = 1.0
        mass[np.ix_(rows, layers)] = torch.einsum("rlhk,rk->rlh", seen, where).numpy()
    used = np.concatenate([np.asarray(rows) for rows in groups])
    found = _difference(mass[used], marks[used])
    rng, null = np.random.default_rng(seed), []
    for _ in range(n_permutations):
        shuffled = marks.copy()
        for rows in groups:
            shuffled[rows] = rng.permutation(marks[rows])
        null.append(_difference(mass[used], shuffled[used]))
    provenance = Provenance(
        "heads that watch a span", len(used), seed, model.name, model.revision,
        settings={"n_permutations": n_permutations, "marked": int(marks[used].sum())}, passes=round(model.forwards - before),
    )  # fmt: skip
    return ranked("head", Scored(np.abs(found), np.abs(null), len(used), more={"signed": found}), provenance)


def _lengths(batch: Batch, spans: Sequence[Sequence[int]], marks: np.ndarray) -> list[list[int]]:
    """Rows of one length, of those lengths that have both kinds."""
    if len(spans) != len(batch) or len(marks) != len(batch):
        raise InputError(
            f"{len(batch)} texts came with {len(spans)} spans and {len(marks)} marks; give one of each a text"
        )
    empty = [row for row, at in enumerate(spans) if not len(at)]
    if empty:
        raise InputError(f"row {empty[0]}: the span is empty; name the positions that heads may watch")
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(batch.lengths):
        groups.setdefault(length, []).append(row)
    kept = [rows for rows in groups.values() if 0 < marks[rows].sum() < len(rows)]
    if not kept:
        raise InputError(
            "no length has both marked and other texts, so nothing can be compared; give texts of like lengths"
        )
    return kept


def _difference(mass: np.ndarray, marks: np.ndarray) -> np.ndarray:
    return mass[marks].mean(0) - mass[~marks].mean(0)
