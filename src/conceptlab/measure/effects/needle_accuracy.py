"""How long a text may be, and how deep the needle, so that a model still finds it: accuracy over lengths and depths.

Each needle is hidden at every depth of every length, and the answer is decoded greedily; right is a ROUGE-1 recall above 0.5
(Wu et al. 2024; the needle-in-a-haystack test of G. Kamradt 2023). Control: the same prompts without the needle, equally long: what
is answered from memory or by luck. Run it inside `model.edited(...)` to see what masked heads cost.
Cost: one prefill and a few steps a prompt: needles x depths x lengths with, and needles x lengths without the needle.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.data.needles import Needle, answer_length, answered_right, hide_needles, without_needles
from conceptlab.evidence import q_values
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.model import Model
from conceptlab.model.decoding import greedy_decode
from conceptlab.results import Provenance, Scores
from conceptlab.runs import SILENT, Progress

CARD = {
    "name": "needle accuracy over lengths and depths",
    "paper": "Wu et al. 2024, Retrieval Head Mechanistically Explains Long-Context Factuality",
    "tags": ["effects", "long context"],
    "takes": "a model, needles, filler, lengths, depths",
    "returns": "Scores",
    "cost": "one prefill and a short decoding a prompt",
}


def needle_accuracy(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    needles: Sequence[Needle],
    filler: str,
    *,
    lengths: Sequence[int],
    depths: Sequence[float],
    n_new: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Scores:
    """Axes length (tokens of the prompt) and depth (share of the filler before the needle): `score` share answered right with
    `low`, `high` (95 %, over needles), `control` share right without the needle, `p` that the needle does not help, `q` over cells.

    Raises InputError as `hide_needles`, ModelError as `greedy_decode`.
    """
    n_new = n_new or answer_length(model, [needle.answer for needle in needles])
    shape, before = (len(lengths), len(depths), len(needles)), model.forwards
    found, nothing = np.zeros(shape), np.zeros(shape)
    stacks = [hide_needles(model, needles, filler, lengths=[length], depths=depths) for length in lengths]
    with progress.task("lengths", total=len(lengths)) as task:
        for at, stack in enumerate(stacks):
            right = answered_right(model, greedy_decode(model, stack.batch, n_new), stack.answers)
            found[at] = right.reshape(shape[1:])
            bare = stack.select(range(len(needles)))  # without a needle its depth is no matter
            without = without_needles(model, bare, needles, filler)
            nothing[at] = answered_right(model, greedy_decode(model, without, n_new), bare.answers)
            task.advance(1)
    provenance = Provenance(
        "needle accuracy", len(needles), seed, model.name, model.revision, passes=round(model.forwards - before),
        settings={"n_new": n_new, "lengths": list(lengths), "depths": [float(d) for d in depths]},
    )  # fmt: skip
    return Scores(_table(found, nothing, lengths, depths, seed), provenance)


def _table(
    found: np.ndarray, nothing: np.ndarray, lengths: Sequence[int], depths: Sequence[float], seed: int
) -> xr.Dataset:
    cells = found.reshape(-1, found.shape[-1])
    ends = np.array([bootstrap_share(cell, seed=seed) for cell in cells]).reshape(*found.shape[:2], 2)
    p = sign_flip_p(np.moveaxis(found - nothing, -1, 0), seed=seed)
    columns = {
        "score": found.mean(-1), "low": ends[..., 0], "high": ends[..., 1], "control": nothing.mean(-1), "p": p,
        "q": q_values(p.reshape(-1)).reshape(p.shape),
    }  # fmt: skip
    dims = ("length", "depth")
    return xr.Dataset(
        {name: (dims, column) for name, column in columns.items()},
        coords={"length": list(lengths), "depth": [float(depth) for depth in depths]},
    )
