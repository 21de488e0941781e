"""Hidden chains: what stands below the filler token, layer by layer, where a model writes `.` in place of a reasoning step.

At every position that writes a filler, each layer's stream is read through the lens: is the filler the first choice, which token is
the best that is no filler, and is that the true step? The filler takes over at the first layer from which it stays the first choice
of at least half the positions; the layer before is `read`, chosen without a look at the steps. Source: Bharadwaj 2024,
Understanding Hidden Computations in Chain-of-Thought Reasoning (logit lens at filler positions, rank-2 decoding).
Controls: whole chains of other texts of equal length (is this text read?), steps renamed among themselves (is it read in the words
that name it, and not only present?), and the commonest step said everywhere (`constant`). p is the larger of the first two; with
fewer than four different steps renaming alone keeps it above 0.05.
Departure: special tokens besides the filler may be skipped by id; the layer is chosen by rule, not by eye.
Cost: one forward, and one unembedding of the filler positions a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import permutation_p, q_values
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.lenses.lens_pass import Streams, lens_pieces, record_streams
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.model import Texts
from conceptlab.numerics.token_ranks import ranks
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "hidden-chain lens",
    "paper": "Bharadwaj 2024, Understanding Hidden Computations in Chain-of-Thought Reasoning",
    "tags": ["lens", "reasoning", "depth"],
    "takes": "a model, texts with filler tokens, the steps that the fillers stand for",
    "returns": "Scores",
    "cost": "one forward, one unembedding a layer of the filler positions",
}
TAKEN_OVER = 0.5  # share of positions whose first choice is the filler


@dataclass(frozen=True, eq=False)
class Chain:
    """Texts with fillers: `positions` [row] that write one each, and the true `steps` [token] they stand for, row by row."""

    batch: Batch
    positions: tuple[tuple[int, ...], ...]
    steps: Tensor

    @property
    def row(self) -> np.ndarray:
        """The row of each step [token]."""
        return np.repeat(np.arange(len(self.positions)), [len(own) for own in self.positions])


def hidden_chain(  # noqa: PLR0913 - the lens and what to read through it
    model: Model,
    texts: Texts,
    steps: Sequence[Sequence[int]],
    *,
    filler: int,
    skip: Sequence[int] = (),
    n_shuffles: int = 199,
    seed: int = 0,
) -> Scores:
    """Read what the fillers hide; `steps` [row][filler of the row] are the token ids that stand in their place in a visible chain.

    Axis layer (`embed`, 0, ...): `score` share of true steps that are the best token besides `filler` and `skip`, with `low`,
    `high` (95 %, texts drawn again), `control` the same for shuffled steps, `renamed` for renamed ones, `p`, `q` over layers,
    `constant`; `filler_top1` share of positions whose first choice is the filler, `filler_rank` and `true_rank` mean ranks among
    all tokens, `within_two` share of true steps of rank 1 or 2. Axes layer, token: `best` (id), `is_filler`. Attributes
    `overwrite` (where the filler takes over, "never" or a label of the layer axis) and `read` (the label before it).
    Raises InputError for a text without fillers, steps that do not fit them, or steps among the skipped tokens.
    """
    before = model.forwards
    chain = read_chain(model, texts, steps, filler, skip)
    streams = record_streams(model, chain.batch, chain.positions)
    found = _read(model, streams, chain, filler, skip)
    data = _table(streams, found, chain, n_shuffles, seed)
    provenance = Provenance(
        "hidden-chain lens", len(chain.batch), seed, model.name, model.revision,
        settings={"filler": filler, "skip": list(skip), "n_shuffles": n_shuffles}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def read_chain(
    model: Model, texts: Texts, steps: Sequence[Sequence[int]], filler: int, skip: Sequence[int] = ()
) -> Chain:
    """Where fillers are written, and what they stand for. Raises InputError as `hidden_chain` does."""
    batch, size = model.encode(texts), model.unembedding.shape[0]
    if len(steps) != len(batch):
        raise InputError(f"steps for {len(steps)} texts came with {len(batch)} texts; give one list of steps a text")
    if not 0 <= filler < size:
        raise InputError(f"the filler {filler} is outside the vocabulary of {size}")
    positions = tuple(tuple(p for p, after in enumerate(ids[1:]) if after == filler) for ids in batch.ids)
    closed = {filler, *skip}
    for row, (at, own) in enumerate(zip(positions, steps, strict=True)):
        if not at:
            raise InputError(f"row {row} has no filler (token {filler}); leave the row out or name another filler")
        if len(own) != len(at):
            raise InputError(f"row {row}: {len(own)} steps came for {len(at)} fillers; give one step a filler")
        bad = [s for s in own if s in closed or not 0 <= s < size]
        if bad:
            raise InputError(f"row {row}: the step {bad[0]} is the filler, a skipped token or outside the vocabulary")
    return Chain(batch, positions, torch.tensor([s for own in steps for s in own]))


def best_besides(logits: Tensor, filler: int, skip: Sequence[int]) -> Tensor:
    """The likeliest token [token] that is neither the filler nor skipped, of logits [token, d_vocab]."""
    closed = torch.tensor([filler, *skip], device=logits.device)
    return logits.index_fill(-1, closed, float("-inf")).argmax(-1)


def _read(model: Model, streams: Streams, chain: Chain, filler: int, skip: Sequence[int]) -> dict[str, np.ndarray]:
    """best, rank of the filler and rank of the true step, each [layer, token]."""
    shape = (len(streams.labels), len(streams.values))
    found = {"best": np.zeros(shape, dtype=np.int64), "filler_rank": np.zeros(shape), "true_rank": np.zeros(shape)}
    for tokens, at, logp, _ in lens_pieces(model, streams):
        wanted = torch.stack([torch.full_like(chain.steps[tokens], filler), chain.steps[tokens]], 1)
        both = ranks(logp, wanted).cpu().numpy()
        found["best"][at, tokens] = best_besides(logp, filler, skip).cpu().numpy()
        found["filler_rank"][at, tokens], found["true_rank"][at, tokens] = both[:, 0], both[:, 1]
    return found


def _table(streams: Streams, found: dict[str, np.ndarray], chain: Chain, n_shuffles: int, seed: int) -> xr.Dataset:
    true = chain.steps.numpy()
    right = found["best"] == true
    score = right.mean(1)
    null = np.stack([(found["best"] == s).mean(1) for s in shuffled_steps(true, chain.row, n_shuffles, seed)])
    renamed = np.stack([(found["best"] == s).mean(1) for s in _renamed_steps(true, n_shuffles, seed)])
    bounds = np.array([bootstrap_share(r, streams.row, seed=seed) for r in right])
    p = np.maximum(permutation_p(score, null), permutation_p(score, renamed))
    is_filler = found["filler_rank"] < 1.5
    taken = is_filler.mean(1)
    overwrite = take_over(taken)
    labels = [*streams.labels, "never"]
    commonest = np.unique(true, return_counts=True)[1].max() / len(true)
    data = {
        "score": score, "low": bounds[:, 0], "high": bounds[:, 1], "control": null.mean(0),
        "renamed": renamed.mean(0), "p": p, "q": q_values(p),
        "constant": np.full(len(score), commonest),
        "filler_top1": taken, "filler_rank": found["filler_rank"].mean(1), "true_rank": found["true_rank"].mean(1),
        "within_two": (found["true_rank"] <= 2).mean(1),
    }  # fmt: skip
    return xr.Dataset(
        {
            **{name: ("layer", column) for name, column in data.items()},
            "best": (("layer", "token"), found["best"]),
            "is_filler": (("layer", "token"), is_filler),
        },
        coords={
            "layer": list(streams.labels), "row": ("token", streams.row), "position": ("token", streams.position),
            "step": ("token", true),
        },
        attrs={"overwrite": labels[overwrite], "read": streams.labels[max(overwrite - 1, 0)]},
    )  # fmt: skip


def shuffled_steps(true: np.ndarray, row: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` shuffles [n, token] of the steps among texts: whole chains move to other texts whose chains are as long.

    A chain whose length is like no other stays where it is, which can only bring the null nearer to what is measured.
    """
    rng = np.random.default_rng(seed)
    sizes = np.bincount(row)
    start = np.cumsum(sizes) - sizes
    within, out = np.arange(len(true)) - start[row], np.empty((n, len(true)), dtype=true.dtype)
    order = np.argsort(sizes, kind="stable")
    for draw in out:
        source = np.empty_like(order)
        source[order] = np.lexsort((rng.random(len(sizes)), sizes))
        draw[:] = true[start[source[row]] + within]
    return out


def _renamed_steps(true: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` renamings [n, token]: everywhere one step has the name of another."""
    rng = np.random.default_rng(seed)
    names, at = np.unique(true, return_inverse=True)
    return np.stack([rng.permutation(names)[at] for _ in range(n)])


def take_over(taken: np.ndarray) -> int:
    """The first place on the layer axis from which `taken` [layer] stays at least one half; its length where it never does."""
    below = np.flatnonzero(taken < TAKEN_OVER)
    return int(below[-1]) + 1 if len(below) else 0
