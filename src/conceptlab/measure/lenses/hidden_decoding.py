"""Hidden decoding: write the best token that is no filler in place of every filler, and see whether the answers change.

The model writes greedily from the place of its first filler on. In the variant `as text` the filler stays in the context and only
the text shows the runner-up, so the computation is the model's own; in `fed back` the runner-up enters the context in the filler's
place. Source: Bharadwaj 2024, Understanding Hidden Computations in Chain-of-Thought Reasoning (section on the modified decoder).
Control: answers of all texts to each (what a guess from the mixture of answers gets right); for steps, those of other texts.
`as text` cannot change an answer; its number is what is recovered.
Cost: one forward of the rows for each token that is written, and again for `fed back`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.lenses.hidden_chain import Chain, best_besides, read_chain, shuffled_steps
from conceptlab.measure.lenses.lens_pass import record_streams
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "hidden decoding",
    "paper": "Bharadwaj 2024, Understanding Hidden Computations in Chain-of-Thought Reasoning",
    "tags": ["lens", "reasoning", "decoding"],
    "takes": "a model, texts with filler tokens, steps, answers",
    "returns": "Scores",
    "cost": "two forwards a written token",
}
VARIANTS = ("as it is", "as text", "fed back")


def hidden_decoding(  # noqa: PLR0913 - the decoder and what it is judged by
    model: Model,
    texts: Texts,
    steps: Sequence[Sequence[int]],
    answers: Sequence[int],
    *,
    filler: int,
    skip: Sequence[int] = (),
    layer: str | None = None,
    seed: int = 0,
) -> Scores:
    """Write every text again from its first filler on, one token further than it goes: the last one is the answer.

    `layer` is where the runner-up is read, a label of the lens' layer axis (None: the last one). Axis variant ("as it is", "as
    text", "fed back"): `score` share of right answers with `low`, `high` (95 %), `control` the share that answers of any text
    get; `recovered` share of fillers' places that show the true step with its 95 % interval (texts drawn again) and
    `recovered_control` for steps of other texts; `unchanged` share of texts whose answer is that of
    "as it is", with interval, and `unchanged_control` by chance.
    Raises InputError as `hidden_chain` does, and for a layer that is not there.
    """
    before = model.forwards
    chain = read_chain(model, texts, steps, filler, skip)
    if len(answers) != len(chain.batch):
        raise InputError(f"{len(answers)} answers came for {len(chain.batch)} texts; give one a text")
    labels = ["embed", *map(str, range(model.n_layers))]
    layer = labels[-1] if layer is None else layer
    if layer not in labels:
        raise InputError(f"{model.name} has no layer {layer!r} on its lens; the layers are {', '.join(labels)}")
    written = {}
    for feed_back in (False, True):
        written[feed_back] = _written(model, chain, filler, skip, labels.index(layer), feed_back)
    shown = {"as it is": written[False][0], "as text": written[False][1], "fed back": written[True][1]}
    given = {"as it is": written[False][0], "as text": written[False][0], "fed back": written[True][0]}
    data = _table(shown, given, chain, np.asarray(answers), seed)
    provenance = Provenance(
        "hidden decoding", len(chain.batch), seed, model.name, model.revision,
        settings={"filler": filler, "skip": list(skip), "layer": layer}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def _written(
    model: Model, chain: Chain, filler: int, skip: Sequence[int], at: int, feed_back: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """What stands in the context and what is shown [row][written token], from the first filler to the answer."""
    rows = [list(ids[: own[0] + 1]) for ids, own in zip(chain.batch.ids, chain.positions, strict=True)]
    starts = [len(row) for row in rows]
    ends = [len(ids) + 1 for ids in chain.batch.ids]
    shown: list[list[int]] = [[] for _ in rows]
    for _ in range(max(e - s for s, e in zip(starts, ends, strict=True))):
        going = [r for r, row in enumerate(rows) if len(row) < ends[r]]
        streams = record_streams(model, Batch(tuple(tuple(rows[r]) for r in going)), "last")
        with torch.no_grad():
            first = model.lens(streams.values[:, -1]).argmax(-1).tolist()
            below = best_besides(model.lens(streams.values[:, at]).float(), filler, skip).tolist()
        for r, top, other in zip(going, first, below, strict=True):
            text = other if top == filler else top
            shown[r].append(text)
            rows[r].append(text if feed_back else top)
    return [row[start:] for row, start in zip(rows, starts, strict=True)], shown


def _table(
    shown: dict[str, list[list[int]]],
    given: dict[str, list[list[int]]],
    chain: Chain,
    answers: np.ndarray,
    seed: int,
) -> xr.Dataset:
    true, row = chain.steps.numpy(), chain.row
    offset = np.concatenate([np.array(own) - own[0] for own in chain.positions])
    wrong = shuffled_steps(true, row, 19, seed)
    columns: dict[str, list[float]] = {}
    plain = np.array([tokens[-1] for tokens in given["as it is"]])
    for variant in VARIANTS:
        said = np.array([tokens[-1] for tokens in given[variant]])
        steps = np.array([shown[variant][r][o] for r, o in zip(row, offset, strict=True)])
        low, high = bootstrap_share(said == answers, seed=seed)
        recovered_low, recovered_high = bootstrap_share(steps == true, row, seed=seed)
        unchanged_low, unchanged_high = bootstrap_share(said == plain, seed=seed)
        values = {
            "score": (said == answers).mean(), "low": low, "high": high, "control": (said[:, None] == answers).mean(),
            "recovered": (steps == true).mean(), "recovered_low": recovered_low, "recovered_high": recovered_high,
            "recovered_control": (steps == wrong).mean(), "unchanged": (said == plain).mean(),
            "unchanged_low": unchanged_low, "unchanged_high": unchanged_high,
            "unchanged_control": (said[:, None] == plain).mean(),
        }  # fmt: skip
        for name, value in values.items():
            columns.setdefault(name, []).append(float(value))
    return xr.Dataset(
        {name: ("variant", np.array(column)) for name, column in columns.items()}, coords={"variant": list(VARIANTS)}
    )
