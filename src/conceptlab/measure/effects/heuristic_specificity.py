"""Knock out all neurons of one heuristic: do the prompts that satisfy it lose more than those that do not?

The members are put to 0 at the last position together, heuristic by heuristic. Control: what the same knock-out costs prompts
that do not satisfy the heuristic. Source: Nikankin et al. 2024, who count right answers; the answer's probability is read here,
since in a redundant bag one heuristic alone seldom turns an answer. Heuristics with the same
members are asked once. Cost: a sweep of one edit a heuristic over the prompts.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.measure.effects.heuristic_knockout import zeroed
from conceptlab.model import Model
from conceptlab.model.metric import prob
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.results import Provenance, Scores, Site

CARD = {
    "name": "specificity of heuristics",
    "paper": "Nikankin et al. 2024, Arithmetic Without Algorithms",
    "tags": ["effects", "ablation", "neurons", "arithmetic"],
    "takes": "a model, prompts, answer tokens, neurons, the members of each heuristic and the prompts that satisfy it",
    "returns": "Scores",
    "cost": "a sweep of one edit a heuristic",
}


def heuristic_specificity(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    prompts: Texts,
    answers: Sequence[int],
    neurons: Sequence[Site],
    member: np.ndarray,
    masks: np.ndarray,
    names: Sequence[str],
    *,
    fewest: int = 1,
    seed: int = 0,
) -> Scores:
    """For every heuristic of at least `fewest` members: points of the answer's probability (0 to 100) lost by the prompts that
    satisfy it (`score`) and by those that do not (`control`). `member` [neuron, heuristic], `masks` [heuristic, prompt].

    Axis heuristic: `score`, `control`, `size`. Attributes over heuristics: `mean`, `low`, `high` (95 %), `mean_control`, `p` of
    the paired difference. Raises InputError where shapes do not fit."""
    batch, before = model.encode(prompts), model.forwards
    if member.shape != (len(neurons), len(names)) or masks.shape != (len(names), len(batch)):
        raise InputError(
            f"members of shape {list(member.shape)} and masks of shape {list(masks.shape)} do not fit {len(neurons)} neurons, "
            f"{len(names)} heuristics and {len(batch)} prompts"
        )
    chosen = _different(member, fewest)
    items = [zeroed([neurons[n] for n in np.flatnonzero(member[:, h]).tolist()]) for h in chosen]
    if not items:
        raise InputError(f"no heuristic has {fewest} members; lower fewest")
    found = sweep(model, batch, items, prob(answers))
    lost = 100 * (found.clean - found.values)
    here = masks[np.array(chosen, dtype=int)]
    sides = np.array([[_mean(one[inside]), _mean(one[~inside])] for one, inside in zip(lost, here, strict=True)])
    sides = sides.reshape(-1, 2)
    data = xr.Dataset(
        {"score": ("heuristic", sides[:, 0]), "control": ("heuristic", sides[:, 1]),
         "size": ("heuristic", member[:, chosen].sum(0))},
        coords={"heuristic": [names[h] for h in chosen]}, attrs=_summary(sides, seed),
    )  # fmt: skip
    provenance = Provenance(
        "specificity of heuristics", len(batch), seed, model.name, model.revision,
        settings={"fewest": fewest, "heuristics": len(chosen)}, passes=round(model.forwards - before), causal="ablation",
        warnings=found.notes,
    )  # fmt: skip
    return Scores(data, provenance)


def _different(member: np.ndarray, fewest: int) -> list[int]:
    """Heuristics of enough members, one for each set of members."""
    seen: dict[bytes, int] = {}
    for h in np.flatnonzero(member.sum(0) >= max(fewest, 1)):
        seen.setdefault(member[:, h].tobytes(), int(h))
    return list(seen.values())


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _summary(sides: np.ndarray, seed: int) -> dict[str, float]:
    kept = sides[np.isfinite(sides).all(1)]
    if not len(kept):
        return dict.fromkeys(("mean", "low", "high", "mean_control", "p"), float("nan"))
    low, high = bootstrap_mean(kept[:, 0], seed=seed)
    p = float(sign_flip_p(kept[:, 0] - kept[:, 1], seed=seed))
    mean, control = kept.mean(0)
    return {"mean": float(mean), "low": float(low), "high": float(high), "mean_control": float(control), "p": p}
