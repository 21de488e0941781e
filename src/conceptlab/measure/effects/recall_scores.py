"""Does a model call up a fact while it reasons? How strongly the fact's neurons fire there, beside how they do when it is
asked.

Recall score of a prompt: the largest mean activation of the fact's neurons over positions, over their mean size at the last
position of the direct questions; gated neurons fire either way, so signs are those of the direct questions. Control: as many
random neurons of the same layers that fire on the direct questions, in the same way. Source: after Unveiling Factual Recall
Behaviors of Large Language Models through Knowledge Neurons (2024); the ratio is ours. Trap: where the text says the bridge
entity, neurons fire because they read it; give `until`, the first position that may not count, or `since`, the first that may.
Cost: one forward of the prompts and of the direct questions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from conceptlab.errors import InputError
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores, Site

CARD = {
    "name": "recall scores",
    "paper": "Unveiling Factual Recall Behaviors of Large Language Models through Knowledge Neurons (2024)",
    "tags": ["neurons", "facts", "reasoning"],
    "takes": "a model, prompts, the neurons of each prompt's fact, and direct questions",
    "returns": "Scores",
    "cost": "one forward of the prompts and questions",
}


def recall_scores(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    prompts: Texts,
    facts: Sequence[str],
    neurons: Mapping[str, Sequence[Site]],
    direct: Mapping[str, Sequence[str]],
    *,
    until: Sequence[int] | None = None,
    since: Sequence[int] | None = None,
    n_random: int = 20,
    seed: int = 0,
) -> Scores:
    """`facts` [prompt] names the fact that each prompt needs; `neurons` and `direct` questions are by fact.

    Axis prompt: `score` recall, `control` mean over random sets. Raises InputError where a fact has no neurons or no questions.
    """
    for fact in dict.fromkeys(facts):
        if not neurons.get(fact) or not direct.get(fact):
            raise InputError(f"the fact {fact!r} has no neurons or no direct questions; leave its prompts out")
    batch, before, rng = model.encode(prompts), model.forwards, np.random.default_rng(seed)
    layers = list(model.layers_with("mlp_post"))
    fired = model.capture(batch, "mlp_post", positions="all")
    values, row, position = fired["mlp_post"].float().cpu().numpy(), fired.row, fired.position
    score, control = np.zeros((2, len(batch)))
    for fact in dict.fromkeys(facts):
        asked = (
            model.capture(list(direct[fact]), "mlp_post")["mlp_post"].float().cpu().numpy().mean(0)
        )  # [layer, neuron]
        sets = [_cells(layers, neurons[fact]), *(_like(neurons[fact], layers, asked, rng) for _ in range(n_random))]
        for i in (i for i, name in enumerate(facts) if name == fact):
            kept = (row == i) & (position < (until[i] if until is not None else np.inf))
            kept &= position >= (since[i] if since is not None else 0)
            found = [_ratio(values[kept], asked, cells) for cells in sets]
            score[i], control[i] = found[0], np.mean(found[1:]) if n_random else np.nan
    data = xr.Dataset(
        {"score": ("prompt", score), "control": ("prompt", control)}, coords={"fact": ("prompt", list(facts))}
    )
    provenance = Provenance(
        "recall scores", len(batch), seed, model.name, model.revision, settings={"n_random": n_random},
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


Cells = tuple[np.ndarray, np.ndarray]


def _cells(layers: list[int], sites: Sequence[Site]) -> Cells:
    pairs = [(layers.index(site.layer or 0), unit) for site in sites for unit in site.units]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def _like(sites: Sequence[Site], layers: list[int], asked: np.ndarray, rng: np.random.Generator) -> Cells:
    """As many random neurons of the same layers, of those that fire when asked directly."""
    mine, other = _cells(layers, sites), []
    for axis in np.unique(mine[0]):
        own = mine[1][mine[0] == axis]
        free = np.setdiff1d(np.flatnonzero(np.abs(asked[axis]) > 1e-6), own)
        free = free if len(free) >= len(own) else np.setdiff1d(np.arange(asked.shape[1]), own)
        other += [(axis, unit) for unit in rng.choice(free, size=min(len(own), len(free)), replace=False)]
    return np.array([a for a, _ in other], dtype=int), np.array([b for _, b in other], dtype=int)


def _ratio(values: np.ndarray, asked: np.ndarray, cells: Cells) -> float:
    """Largest mean activation of `values` [position, layer, neuron] at `cells`, signs as when asked, over its size when
    asked."""
    direct = float(np.abs(asked[cells]).mean()) if len(cells[0]) else 0.0
    there = (values[:, cells[0], cells[1]] * np.sign(asked[cells])).mean(1)
    return float(there.max() / direct) if direct > 1e-6 and len(there) else 0.0
