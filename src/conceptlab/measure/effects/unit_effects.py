"""Does the model use these heads or neurons? Mean-ablate them at the read position, beside equal-size random sets of the same kind.

Cost: 1 + n_random replays of the rows, of one token where the KV cache allows; every set rides in one batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.measure.effects.beside_random import summarise
from conceptlab.measure.effects.judges import Judge, copies_that_fit
from conceptlab.results import Site

if TYPE_CHECKING:
    from conceptlab.model.instrument import Visit
    from conceptlab.model.replay import Change, Replay

CARD = {
    "name": "unit effects",
    "paper": "Wang et al. 2023 (mean ablation, IOI)",
    "tags": ["effects", "ablation", "heads", "neurons"],
    "takes": "a model, rows, heads or neurons",
    "returns": "Scores",
    "cost": "1 + n_random replays of the rows",
}


def unit_effects(  # noqa: PLR0913 - one experiment, fully stated
    replay: "Replay",
    judge: Judge,
    units: Sequence[Site],
    means: Tensor,
    layers: Sequence[int],
    *,
    n_random: int = 100,
    seed: int = 0,
) -> dict[tuple[str, str], dict[str, float]]:
    """Mean-ablate `units` together. `means` [layer, unit, …] are mean activations at the layers `layers` of the units' site.

    Returns {("ablate heads" or "ablate neurons", reading): summary}.
    """
    site = units[0].name
    wanted = np.zeros((1, *means.shape[:2]), dtype=bool)
    for unit in units:
        wanted[0, list(layers).index(unit.layer or 0), list(unit.units)] = True
    sets = np.concatenate([wanted, random_sets(int(wanted.sum()), means.shape[:2], n_random, seed, avoid=wanted[0])])
    parts: list[dict[str, Tensor]] = []
    for chunk in torch.from_numpy(sets).split(copies_that_fit(replay, judge)):
        parts.append(judge.losses(*_ablated(replay, chunk.to(means.device), means, site, layers)))
    name = "ablate heads" if site == "z" else "ablate neurons"
    losses = {r: torch.cat([p[r] for p in parts]).double().cpu().numpy() for r in judge.readings}
    return {(name, r): summarise(loss[0], loss[1:], seed=seed) for r, loss in losses.items()}


def random_sets(size: int, shape: tuple[int, ...], n: int, seed: int, *, avoid: np.ndarray) -> np.ndarray:
    """`n` random sets [n, layer, unit] of `size` units each, none of them among `avoid`."""
    free = np.flatnonzero(~avoid.reshape(-1))
    rng = np.random.default_rng(seed)
    sets = np.zeros((n, int(np.prod(shape))), dtype=bool)
    for row in sets:
        row[rng.choice(free, size=min(size, len(free)), replace=False)] = True
    return sets.reshape(n, *shape)


def _ablated(replay: "Replay", sets: Tensor, means: Tensor, site: str, layers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Replay copies of the rows, one copy a set, with the set's units at their means."""
    changes: list[Change] = []
    for axis, layer in enumerate(layers):
        if bool(sets[:, axis].any()):
            mask = sets[:, axis].repeat_interleave(replay.n_rows, 0)
            changes.append((replay.model.tap(site, layer), layer, _setter(mask, means[axis], replay, len(sets))))
    start = int(torch.tensor(layers)[sets.any(2).any(0).cpu()].min())
    return replay.run(start, replay.streams[start].repeat(len(sets), 1, 1), changes)


def _setter(mask: Tensor, mean: Tensor, replay: "Replay", copies: int) -> "Visit":
    read = replay.read.repeat(copies)

    def visit(view: Tensor) -> Tensor:
        rows = torch.arange(len(view), device=view.device)
        cells = view[rows, read]
        chosen = mask[..., None] if cells.dim() == 3 else mask
        return view.index_put((rows, read), torch.where(chosen, mean.to(view), cells))

    return visit
