"""The context horizon: from which depth on does the answer no longer look back at the context?

The stream of all context positions, as it enters one block, is exchanged for that of another context of the same length; what
comes after the context is left as it is and goes on from there. Up to the horizon the answer is lost, behind it it stays. Source:
Dutta et al. 2024, How to think step-by-step; the exact protocol is ours. Control: the answers of other rows (all orders alike),
which is what is left by chance; p that the own answer is kept more often. Cost: one forward of the other texts, and a sweep of
one edit a layer over the rows.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, permuted_labels, q_values
from conceptlab.evidence.row_groups import row_groups
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.metric import Metric
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "context horizon",
    "paper": "Dutta et al. 2024, How to think step-by-step",
    "tags": ["patching", "depth", "context"],
    "takes": "a model, texts, other texts of equal length, context positions, answer tokens",
    "returns": "Scores",
    "cost": "a sweep of one edit a layer",
}
# the likeliest token as a number: what every reading here is made of
CHOICE = Metric("first choice", lambda logits, _: logits.argmax(-1).float())


def context_horizon(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    others: Texts,
    context: Sequence[int] | Sequence[Sequence[int]],
    answers: Sequence[int],
    *,
    other_answers: Sequence[int] | None = None,
    groups: Sequence[int | str] | None = None,
    kept: float = 0.9,
    n_permutations: int = 199,
    seed: int = 0,
) -> Scores:
    """Accuracy on `texts` when the context entering each block is that of `others` (row by row, equal lengths).

    `context`: real-token positions, the same for all rows or one list a row. Axis layer (the block whose input is exchanged):
    `score` share of rows that still give `answers` (token ids [row]), `low`, `high` bootstrap, `control` for other rows' answers,
    `p`, `q`, and with `other_answers` the share that `follows` them. Attributes: `accuracy` unchanged; `horizon`, the first block
    at whose input, and at all later ones, `kept` of that accuracy stays (-1: none, or the accuracy is no more than chance).
    Raises InputError for rows of unequal length, positions that are empty or reach the last token, and answers that do not fit.
    """
    clean, noise = model.encode(texts), model.encode(others)
    positions = _positions(clean, noise, context)
    wanted = np.asarray(answers)
    if len(wanted) != len(clean):
        raise InputError(f"{len(wanted)} answers came with {len(clean)} texts; give one token id per text")
    before, together = model.forwards, row_groups(groups, len(clean))
    acts = model.capture(noise, "resid_pre", positions=positions)
    layers = model.layers_with("resid_pre")
    edits = [
        Edit(Site("resid_pre", layer), "set", value=acts.at("resid_pre", layer), positions=positions)  # type: ignore[arg-type]
        for layer in layers
    ]
    found = sweep(model, clean, edits, CHOICE)
    shuffled = permuted_labels(wanted, None, n_permutations, seed)
    chosen = np.concatenate([found.clean[None], found.values]).astype(np.int64)
    score, null = (chosen == wanted).mean(1), (chosen[None] == shuffled[:, None]).mean(2)  # [layer], [draw, layer]
    p = permutation_p(score, null)
    low, high = bootstrap_mean((chosen[1:] == wanted).T.astype(float), together, seed=seed)
    columns = {
        "score": score[1:],
        "low": low,
        "high": high,
        "control": null.mean(0)[1:],
        "p": p[1:],
        "q": q_values(p[1:]),
    }
    if other_answers is not None:
        columns["follows"] = (chosen[1:] == np.asarray(other_answers)).mean(1)
    data = xr.Dataset({name: ("layer", column) for name, column in columns.items()}, coords={"layer": list(layers)})
    known = bool(p[0] <= 0.05)
    enough = np.flip(np.logical_and.accumulate(np.flip(score[1:] >= kept * score[0])))
    data.attrs = {
        "accuracy": float(score[0]),
        "horizon": int(layers[enough.argmax()]) if known and enough.any() else -1,
    }
    warnings = (
        () if known else ("unchanged texts are answered no better than by chance, so there is no horizon to find",)
    )
    provenance = Provenance(
        "context horizon", len(clean), seed, model.name, model.revision, settings={"kept": kept},
        passes=round(model.forwards - before), causal="patching", warnings=(*warnings, *found.notes),
    )  # fmt: skip
    return Scores(data, provenance)


def _positions(clean: Batch, noise: Batch, context: Sequence[int] | Sequence[Sequence[int]]) -> list[list[int]]:
    """Context positions of every row. Raises InputError where the pairs differ in length or the positions make no context."""
    if clean.lengths != noise.lengths:
        row = next(
            (i for i, (a, b) in enumerate(zip(clean.lengths, noise.lengths, strict=False)) if a != b), len(noise)
        )
        raise InputError(f"row {row}: text and other text have different numbers of tokens; pair texts of equal length")
    flat = [c for c in context if isinstance(c, int)]
    listed = [flat] * len(clean) if len(flat) == len(context) else [list(c) for c in context if not isinstance(c, int)]
    if len(listed) != len(clean):
        raise InputError(f"{len(listed)} lists of context positions came for {len(clean)} texts; give one a text")
    for row, (own, length) in enumerate(zip(listed, clean.lengths, strict=True)):
        if not own or any(not 0 <= p < length - 1 for p in own):
            raise InputError(
                f"row {row}: the context positions {own[:5]}… must lie before the last of {length} tokens, and be some"
            )
    return [sorted(own) for own in listed]
