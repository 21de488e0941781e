"""Direct logit attribution of single neurons: which of all of them push an answer by themselves.

contribution(n) = a[n] * <w_out[n], frozen direction of the answer>, the norms held at the real stream as in `direct_logit`.
Control: random pairs of tokens of the same kind. Neurons are thousands, so p is family-wise: how often the most extreme neuron of a
draw, each in units of its own null, is at least as extreme (Westfall and Young 1993, maximum). Source: as `direct_logit`.
Cost: one forward of the rows; memory rows x pool x d_mlp of `max_rows` rows of one layer at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr

from conceptlab.evidence.random_tokens import random_pairs, token_pool
from conceptlab.measure.attribution.direct_logit import asked_tokens, in_chunks
from conceptlab.model import Model
from conceptlab.model.capture import Activations
from conceptlab.model.components import final_stream
from conceptlab.model.frozen_end import FrozenEnd, freeze_end
from conceptlab.model.model import Texts
from conceptlab.model.output_map import output_map
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "direct logit attribution of neurons",
    "paper": "Elhage et al. 2021",
    "tags": ["attribution", "neurons", "logits"],
    "takes": "a model, texts, answer and distractor tokens",
    "returns": "Scores",
    "cost": "one forward of the rows",
}


@torch.no_grad()
def direct_logit_neurons(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    texts: Texts,
    answers: Sequence[int],
    distractors: Sequence[int],
    *,
    top: int = 20,
    pool: Sequence[int] | None = None,
    n_random: int = 200,
    max_rows: int = 16,
    seed: int = 0,
) -> Scores:
    """The `top` neurons by |z|: axis `neuron` with names `L2.N17`, best first.

    `score` is the mean contribution to logit(answer) - logit(distractor) at the last position, `control` its mean over random
    pairs, `z` the distance in standard deviations of those, `p` family-wise over all neurons of all layers (attribute
    `n_searched`).
    Raises InputError for ids that do not fit and SiteError where no layer has `mlp_post`.
    """
    batch = model.encode(texts)
    ids = asked_tokens(model, len(batch), answers, distractors)
    layers = model.layers_with("mlp_post")
    model.tap("mlp_post", (layers or (0,))[0])
    drawn = token_pool(ids.numpy(), model.unembedding.shape[0], pool=pool, size=32, seed=seed)
    pairs = random_pairs(n_random, len(batch), len(drawn), seed)
    acts = model.capture(batch, ["mlp_post", "mlp_out", "resid_post"])
    asked = _Asked(freeze_end(model, final_stream(model, acts)), ids, torch.from_numpy(drawn), pairs)
    found = [_layer(model, acts, layer, asked, max_rows) for layer in layers]
    names = [f"L{layer}.N{n}" for layer, (score, _) in zip(layers, found, strict=True) for n in range(len(score))]
    score = np.concatenate([s for s, _ in found])
    z, control, extreme = _standardised(found)
    order = np.argsort(-np.abs(z), kind="stable")[:top]
    p = (1 + (extreme[:, None] >= np.abs(z[order]) - 1e-12).sum(0)) / (1 + n_random)
    columns = {"score": score[order], "control": control[order], "z": z[order], "p": p}
    data = xr.Dataset(
        {name: ("neuron", column) for name, column in columns.items()},
        coords={"neuron": [names[i] for i in order]},
        attrs={"n_searched": len(score), "z_95": float(np.quantile(extreme, 0.95))},
    )
    settings = {"top": top, "n_random": n_random, "pool": len(drawn)}
    provenance = Provenance(
        "direct logit attribution of neurons", len(batch), seed, model.name, model.revision,
        settings=settings, passes=len(batch),
    )  # fmt: skip
    return Scores(data, provenance)


@dataclass(frozen=True, eq=False)
class _Asked:
    """The frozen `end` of all rows, token `ids` [row, 2], `pool` ids and `pairs` [draw, row, 2]."""

    end: FrozenEnd
    ids: torch.Tensor
    pool: torch.Tensor
    pairs: np.ndarray


def _layer(model: Model, acts: Activations, layer: int, asked: _Asked, max_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean contribution [neuron] and its null [draw, neuron] in one layer."""
    fired, added = acts.at("mlp_post", layer), acts.at("mlp_out", layer)
    total, null = np.zeros(()), np.zeros(())
    for rows in in_chunks(len(fired), max_rows):
        end, ids, here = asked.end.select(torch.tensor(rows)), asked.ids[rows], np.arange(len(rows))
        through, some = output_map(model, "mlp_post", layer, fired[rows], added[rows]), fired[rows].double()
        own = through.pull(end.between(ids[:, :1], ids[:, 1:]))[:, 0] * some
        of_pool = through.pull(end.directions(asked.pool.expand(len(rows), -1))) * some[:, None]
        of_pool = of_pool.cpu().numpy()
        total = total + own.sum(0).cpu().numpy()
        pairs = asked.pairs[:, rows].transpose(0, 2, 1)
        null = null + np.stack([(of_pool[here, a] - of_pool[here, b]).sum(0) for a, b in pairs])
    return total / len(fired), null / len(fired)


def _standardised(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z and null mean of every neuron, and the largest |z| of each draw; score and draws are standardised together."""
    zs, means, extreme = [], [], np.zeros(())
    for score, null in found:
        every = np.concatenate([score[None], null])
        spread = every.std(0)
        z = np.where(spread > 0, (every - every.mean(0)) / np.where(spread > 0, spread, 1.0), 0.0)
        zs.append(z[0])
        means.append(null.mean(0))
        extreme = np.maximum(extreme, np.abs(z[1:]).max(1))
    return np.concatenate(zs), np.concatenate(means), extreme
