"""Is a number's last digit a feature of its stream, and does a successor head read it? Residues modulo 10 beside other moduli.

`residue_probe`: held-out accuracy of n mod m from the stream of the number's token (embedding and first MLP), for each modulus.
Control: shuffled residues; and moduli that are no feature of the way numbers are written (9, 7) stand beside 10. `residue_swap`:
the mean of the streams with residue r is taken out and that of residue k put in, x - f[r] + f[k], with means from half of the
numbers; of the other half, how often does the head then say a number whose residue is k + 1? Control: means of shuffled residues,
the move as long as the real one. Source: Gould et al. 2023, Successor Heads, sections 4 and 5 (sparse features there; means here).
Cost: a forward of single words; the swap one more for every number and residue.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import make_folds, permutation_p, permuted_labels, q_values
from conceptlab.evidence.shares import bootstrap_share
from conceptlab.measure.probing.columns import Problem
from conceptlab.measure.probing.layer_probe import held_out_scores
from conceptlab.model import Model
from conceptlab.model.ov_circuit import TokenStreams, answer_logits, ov_outputs, token_streams
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "modular features of numbers",
    "paper": "Gould et al. 2023, Successor Heads: Recurring, Interpretable Attention Heads In The Wild",
    "tags": ["probing", "heads", "arithmetic"],
    "takes": "a model, tokens that are numbers",
    "returns": "Scores",
    "cost": "a forward of single words for each number and residue",
}
MODULI = (10, 9, 7)


def residue_probe(
    model: Model,
    tokens: Sequence[int],
    numbers: Sequence[int],
    *,
    moduli: Sequence[int] = MODULI,
    n_shuffles: int = 20,
    seed: int = 0,
) -> Scores:
    """Held-out accuracy by `modulus` from streams of `tokens` [number]: `score`, `control` (mean over shuffled residues),
    `control_high` (95 %), `chance` (the largest class), `p`, `q`. Raises InputError for fewer than five numbers a residue."""
    values = _checked(tokens, numbers, max(moduli))
    streams = token_streams(model, tokens).processed.float()[:, None]
    rows = []
    for modulus in moduli:
        labels = values % modulus
        folds = make_folds(labels, None, seed=seed)
        shuffled = permuted_labels(labels, None, n_shuffles, seed + 1, folds=folds)
        problem = Problem(np.concatenate([labels[None], shuffled]), folds, "classes", "accuracy")
        found = held_out_scores(streams, problem)[0][0]  # [draw]
        rows.append((found[0], found[1:].mean(), np.quantile(found[1:], 0.95), np.bincount(labels).max() / len(labels),
                     float(permutation_p(found[0], found[1:]))))  # fmt: skip
    names = ("score", "control", "control_high", "chance", "p")
    columns = dict(zip(names, np.array(rows).T, strict=True))
    data = xr.Dataset({n: ("modulus", c) for n, c in columns.items()}, coords={"modulus": list(moduli)})
    data["q"] = ("modulus", q_values(columns["p"]))
    settings = {"n_shuffles": n_shuffles}
    return Scores(
        data,
        Provenance("residues of numbers, probed", len(values), seed, model.name, model.revision, settings=settings),
    )


def residue_swap(
    model: Model,
    head: tuple[int, int],
    tokens: Sequence[int],
    numbers: Sequence[int],
    *,
    moduli: Sequence[int] = (10, 9),
    seed: int = 0,
) -> Scores:
    """Share of (number, other residue) whose answer by `head` (layer, head) moves as the swapped residue says, by `modulus`:
    `score` with `low`, `high` (95 %, numbers drawn again), `control` under shuffled residues.

    Raises InputError for fewer than five numbers a residue, or a head that the model lacks.
    """
    values = _checked(tokens, numbers, max(moduli))
    if not (0 <= head[0] < model.n_layers and 0 <= head[1] < model.n_heads):
        raise InputError(
            f"{model.name} has layers 0 to {model.n_layers - 1} with heads 0 to {model.n_heads - 1}; no L{head[0]}.H{head[1]}"
        )
    streams, rng = token_streams(model, tokens), np.random.default_rng(seed)
    rows = []
    for modulus in moduli:
        residues = values % modulus
        (number, new), *moves = _moves(streams.processed.float(), residues, _half(residues, rng), modulus, rng)
        cases = [
            TokenStreams(streams.embedded[number], streams.processed[number] + m.to(streams.processed)) for m in moves
        ]
        real, shuffled = (_right(model, head, c, tokens, residues, (new + 1) % modulus) for c in cases)
        rows.append((real.mean(), shuffled.mean(), *bootstrap_share(real.astype(float), number, seed=seed)))
    columns = dict(zip(("score", "control", "low", "high"), np.array(rows).T, strict=True))
    data = xr.Dataset({n: ("modulus", c) for n, c in columns.items()}, coords={"modulus": list(moduli)})
    provenance = Provenance(
        "residues of numbers, swapped", len(values), seed, model.name, model.revision,
        settings={"head": f"L{head[0]}.H{head[1]}"}, causal="patching",
    )  # fmt: skip
    return Scores(data, provenance)


def _checked(tokens: Sequence[int], numbers: Sequence[int], most: int) -> np.ndarray:
    values = np.asarray(numbers, dtype=int)
    if len(values) != len(tokens) or len(values) < 5 * most:
        raise InputError(
            f"{len(values)} numbers came with {len(tokens)} tokens; give one number a token, "
            f"at least {5 * most} for residues modulo {most}"
        )
    return values


def _half(residues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random half of the numbers of every residue, as a mask [number]."""
    train = np.zeros(len(residues), dtype=bool)
    for residue in np.unique(residues):
        here = rng.permutation(np.flatnonzero(residues == residue))
        train[here[: (len(here) + 1) // 2]] = True
    return train


def _moves(
    x: Tensor, residues: np.ndarray, train: np.ndarray, modulus: int, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], Tensor, Tensor]:
    """The cases' (number, new residue) of the numbers that are not `train`, and the real and shuffled moves [case, d_model]."""
    number, new = (a.reshape(-1) for a in np.meshgrid(np.flatnonzero(~train), np.arange(modulus), indexing="ij"))
    other = new != residues[number]
    number, new = number[other], new[other]

    def of(labels: np.ndarray) -> Tensor:
        means = torch.stack([x[np.flatnonzero(train)[labels == r]].mean(0) for r in range(modulus)])
        return means[new] - means[residues[number]]

    real, shuffled = of(residues[train]), of(rng.permutation(residues[train]))
    shuffled = shuffled * (real.norm(dim=1, keepdim=True) / shuffled.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return (number, new), real, shuffled


def _right(
    model: Model,
    head: tuple[int, int],
    cases: TokenStreams,
    tokens: Sequence[int],
    residues: np.ndarray,
    wanted: np.ndarray,
) -> np.ndarray:
    """Whether the head's answer to each case, among all numbers (with their `residues`), has the residue `wanted` [case]."""
    outputs = next(made for layer, made in ov_outputs(model, cases) if layer == head[0])[:, head[1]]
    ids = torch.as_tensor(list(tokens), dtype=torch.long)
    said = answer_logits(model, outputs, cases.processed, ids).argmax(-1).cpu().numpy()
    return residues[said] == wanted
