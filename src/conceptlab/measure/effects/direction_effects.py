"""Does the model use the direction? Remove it, or push along it, at the read position, beside norm-matched random directions.

Ablating moves each row's stream to the mean inside the concept's subspace; adding moves it to another class. A random control
makes the same move, coordinate for coordinate and so norm for norm, inside a random subspace of the same rank.
Cost: (2 + 2 * n_random) replays of the rows from the changed block, of one token where the KV cache allows.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from conceptlab.measure.effects.beside_random import summarise
from conceptlab.measure.effects.judges import Judge, copies_that_fit

if TYPE_CHECKING:
    from conceptlab.model.replay import Replay
    from conceptlab.results import Subspace

CARD = {
    "name": "direction effects",
    "paper": "Arditi et al. 2024 (directional ablation); Rimsky et al. 2024 (activation addition)",
    "tags": ["effects", "ablation", "direction"],
    "takes": "a model, rows, a concept's subspace",
    "returns": "Scores",
    "cost": "2 + 2 * n_random replays of the rows above the layer",
}
ABLATE, ADD = "ablate direction", "add direction"


def random_bases(rank: int, d_model: int, n: int, generator: torch.Generator) -> Tensor:
    """`n` orthonormal bases [n, rank, d_model] of uniformly random subspaces."""
    return torch.linalg.qr(torch.randn(n, d_model, rank, generator=generator))[0].transpose(1, 2)


def coordinates(stream: Tensor, subspace: "Subspace", classes: Tensor | None, sign: Tensor | None, spread: float):
    """How each row moves inside the subspace, {intervention: [row, rank]}: to the mean, and on to another class."""
    here = (stream - subspace.mean.to(stream)) @ subspace.basis.to(stream).T
    points = subspace.class_points.to(stream)
    if sign is not None:
        away = torch.zeros_like(here)
        away[:, 0] = -2 * spread * sign.to(stream)
        return {ABLATE: -here, ADD: away}
    return {ABLATE: -here, ADD: points[(classes + 1) % len(points)] - points[classes]}  # type: ignore[operator, index]


def direction_effects(  # noqa: PLR0913 - one experiment, fully stated
    replay: "Replay",
    judge: Judge,
    subspace: "Subspace",
    layer: int,
    *,
    classes: Tensor | None,
    sign: Tensor | None,
    spread: float,
    n_random: int = 100,
    seed: int = 0,
) -> dict[tuple[str, str], dict[str, float]]:
    """Effects of changing the stream that enters block `layer` (of the last block's output where `layer` is n_layers).

    Returns {(intervention, reading): summary} for `effects_table`.
    """
    rows = torch.arange(replay.n_rows)
    top = layer == replay.model.n_layers
    stream = replay.at_read if top else replay.streams[layer][rows, replay.read]
    generator = torch.Generator().manual_seed(seed)
    random = random_bases(subspace.rank, subspace.basis.shape[1], n_random, generator).to(stream)
    bases = torch.cat([subspace.basis.to(stream)[None], random])
    table = {}
    for name, moves in coordinates(stream, subspace, classes, sign, spread).items():
        losses = replay_moves(replay, judge, layer, torch.einsum("nr,krd->knd", moves, bases))
        for reading, loss in losses.items():
            table[name, reading] = summarise(loss[0], loss[1:], seed=seed)
    return table


def replay_moves(replay: "Replay", judge: Judge, layer: int, moves: Tensor) -> dict[str, np.ndarray]:
    """Losses {reading: [copy, row]} of adding `moves` [copy, row, d_model] to the stream entering `layer` at the read position."""
    parts: list[dict[str, Tensor]] = []
    for chunk in moves.split(copies_that_fit(replay, judge)):
        if layer == replay.model.n_layers:
            changed = replay.at_read + chunk
            same = bool((replay.read == replay.last).all())
            parts.append(judge.losses(changed if same else replay.final.expand_as(changed), changed))
            continue
        stream = replay.streams[layer].repeat(len(chunk), 1, 1)
        index = torch.arange(len(stream), device=stream.device)
        stream[index, replay.read.repeat(len(chunk))] += chunk.reshape(len(stream), -1)
        parts.append(judge.losses(*replay.run(layer, stream)))
    return {name: torch.cat([p[name] for p in parts]).double().cpu().numpy() for name in judge.readings}
