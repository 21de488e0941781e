"""Knock out, for each prompt, the neurons of the heuristics that this prompt satisfies: what is left of its answer?

All of them are put to 0 at the last position together. Control: equally many other important neurons of the same layers, drawn at
random. And, stricter, the equally many others of these layers that are most active on that very prompt: a neuron that is silent
there costs nothing whatever it stands for, so only this says whether the heuristic, and not the activity, is what counts. Source:
Nikankin et al. 2024 (prompt-guided ablation); the stricter control is ours. Cost: for each prompt a clean run and 2 + n_random
replays of its last position.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.model import Model
from conceptlab.model.metric import right
from conceptlab.model.model import Texts
from conceptlab.model.sweep import sweep
from conceptlab.model.sweep.plain import plain_values
from conceptlab.results import Edit, Provenance, Scores, Site

CARD = {
    "name": "knock-out by heuristic",
    "paper": "Nikankin et al. 2024, Arithmetic Without Algorithms",
    "tags": ["effects", "ablation", "neurons", "arithmetic"],
    "takes": "a model, prompts, answer tokens, neurons and the prompts that each one's heuristic covers",
    "returns": "Scores",
    "cost": "2 + n_random replays of every prompt's last position",
}
SETS = ("heuristics of the prompt", "most active others")


def heuristic_knockout(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    prompts: Texts,
    answers: Sequence[int],
    neurons: Sequence[Site],
    covers: np.ndarray,
    *,
    n_random: int = 10,
    seed: int = 0,
) -> Scores:
    """Points of accuracy (0 to 100) that prompts lose. `neurons` are single ones, such as L5.N17.mlp_post; `covers` [neuron,
    prompt] says whose heuristic the prompt satisfies (nowhere for neurons without one).

    Axis set: `score` points lost by knocking out the neurons of the prompt's heuristics, and by the most active others, with
    `low`, `high` (95 % over prompts), `control` points lost by random others of the same number, `p` that the set costs more than
    those. Axis prompt: `lost`, `lost_random` and `lost_active` (0 to 1), `size`, `row`. Only prompts are judged that are answered
    right and that have a heuristic, and as many other neurons in every layer; with none of them every number is NaN. Raises
    InputError where shapes do not fit."""
    batch, before = model.encode(prompts), model.forwards
    if covers.shape != (len(neurons), len(batch)) or len(answers) != len(batch):
        raise InputError(
            f"covers {list(covers.shape)} and {len(answers)} answers do not fit {len(neurons)} neurons and {len(batch)} prompts"
        )
    correct = plain_values(model, batch, (), right(answers)) == 1
    layer = np.array([site.layer or 0 for site in neurons])
    rows = [r for r in np.flatnonzero(correct).tolist() if covers[:, r].any() and _enough(covers[:, r], layer)]
    acts = activity(model, batch, neurons)
    rng = np.random.default_rng(seed)
    lost = np.full((2 + n_random, len(rows)), np.nan)
    for i, r in enumerate(rows):
        sets = _sets(covers[:, r], layer, acts[:, r], n_random, rng)
        items = [zeroed([neurons[n] for n in chosen]) for chosen in sets]
        lost[:, i] = 1 - sweep(model, batch.select([r]), items, right([answers[r]])).values[:, 0]
    settings = {"n_random": n_random, "prompts": len(batch), "right": int(correct.sum()), "judged": len(rows)}
    provenance = Provenance(
        "knock-out by heuristic", len(rows), seed, model.name, model.revision, settings=settings,
        passes=round(model.forwards - before), causal="ablation",
    )  # fmt: skip
    return Scores(_table(lost, covers, np.array(rows, dtype=int), seed), provenance)


def activity(model: Model, prompts: Texts, neurons: Sequence[Site]) -> np.ndarray:
    """|activation| at the last position, [neuron, prompt]."""
    layers = sorted({site.layer or 0 for site in neurons})
    acts = model.capture(prompts, "mlp_post", layers=layers)
    found = [acts.at("mlp_post", site.layer or 0)[:, site.units[0]] for site in neurons]
    return np.stack([f.abs().float().cpu().numpy() for f in found])


def zeroed(neurons: Sequence[Site]) -> tuple[Edit, ...]:
    """Put neurons to 0 at the last position, one edit a layer."""
    by_layer: dict[int, list[int]] = {}
    for site in neurons:
        by_layer.setdefault(site.layer or 0, []).extend(site.units)
    return tuple(
        Edit(Site("mlp_post", layer, tuple(sorted(units))), "zero", positions="last")
        for layer, units in sorted(by_layer.items())
    )


def _enough(covered: np.ndarray, layer: np.ndarray) -> bool:
    """Whether every layer has as many neurons outside as inside."""
    return all(covered[layer == at].sum() <= (~covered[layer == at]).sum() for at in np.unique(layer))


def _sets(
    covered: np.ndarray, layer: np.ndarray, active: np.ndarray, n_random: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Neuron numbers: those of the prompt's heuristics, as many most active others layer by layer, `n_random` times random
    others."""
    most, random = [], [[] for _ in range(n_random)]
    for at in np.unique(layer):
        others = np.flatnonzero(~covered & (layer == at))
        size = int((covered & (layer == at)).sum())
        most.append(others[np.argsort(-active[others], kind="stable")[:size]])
        for draw in random:
            draw.append(rng.choice(others, size, replace=False))
    return [np.flatnonzero(covered), *(np.concatenate(chosen) for chosen in (most, *random))]


def _table(lost: np.ndarray, covers: np.ndarray, rows: np.ndarray, seed: int) -> xr.Dataset:
    random = lost[2:].mean(0) if len(rows) else np.zeros(0)
    columns = {name: np.full(len(SETS), np.nan) for name in ("score", "low", "high", "control", "p")}
    if len(rows):
        for i in range(len(SETS)):
            low, high = bootstrap_share(lost[i], seed=seed)
            values = (100 * lost[i].mean(), 100 * low, 100 * high, 100 * random.mean())
            values = (*values, float(sign_flip_p(lost[i] - random, seed=seed)))
            for name, value in zip(columns, values, strict=True):
                columns[name][i] = value
    by_prompt = {
        "lost": lost[0],
        "lost_active": lost[1],
        "lost_random": random,
        "size": covers[:, rows].sum(0),
        "row": rows,
    }
    return xr.Dataset(
        {**{n: ("set", c) for n, c in columns.items()}, **{n: ("prompt", c) for n, c in by_prompt.items()}},
        coords={"set": list(SETS)},
    )
