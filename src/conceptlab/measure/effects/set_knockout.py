"""Knock out sets of heads, each set together: what it costs in accuracy, beside random sets of as many other heads.

`set_effects` of whether the answer comes first, in points. Source: Wang et al. 2023 (mean ablation); Dutta et al. 2024 (parallel
answer pathways). Cost: that of `set_effects`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from conceptlab.measure.effects.set_effects import set_effects
from conceptlab.model import Model
from conceptlab.model.metric import right
from conceptlab.model.model import Texts
from conceptlab.results import Scores, Site

CARD = {
    "name": "knock-out of head sets",
    "paper": "Wang et al. 2023; Dutta et al. 2024",
    "tags": ["effects", "ablation", "heads"],
    "takes": "a model, texts, named sets of heads, answer tokens",
    "returns": "Scores",
    "cost": "one forward and a sweep of sets + random sets",
}
POINTS = ("score", "low", "high", "control", "control_low", "control_high")


def set_knockout(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    sets: Mapping[str, Sequence[Site]],
    answers: Sequence[int],
    *,
    op: Literal["mean", "zero"] = "mean",
    positions: Literal["all", "last"] = "all",
    groups: Sequence[int | str] | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> Scores:
    """Cost of knocking out each of `sets` (heads as sites such as `L5.H3.z`), at all or the last position, on the share of rows
    whose first choice is `answers`.

    The table of `set_effects` in points (0 to 100); attribute `accuracy` of the model. Raises as `set_effects`.
    """
    found = set_effects(
        model, texts, sets, right(answers), op=op, positions=positions, groups=groups, n_random=n_random, seed=seed
    )
    data = found.data.assign({name: 100 * found.data[name] for name in POINTS})
    data.attrs = {"accuracy": found.data.attrs["clean"]}
    return Scores(data, replace(found.provenance, method="knock-out of head sets"))
