"""Answer-writing heads: what the lens would say of the answer if one head alone had added to the stream of its layer.

For every head the stream that enters its block plus that head's output is read through the end of the model, the norm held at the
real stream after attention, so that a head is not judged by how it changes the norm. Its score is the gain in log-odds of the
answer over the stream without any head. Source: Dutta et al. 2024, How to think step-by-step (heads that write answers; their
measure, the share of the answer's probability that is lost with one head alone, is given as `drop`).
Control: random answers of the same kind for the rows (`evidence.random_tokens`), p one-sided, q over all heads.
Cost: one forward, and one unembedding a head and layer of the last position, in pieces of rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.random_tokens import token_pool
from conceptlab.evidence.row_groups import row_groups
from conceptlab.evidence.studentised import studentised_p
from conceptlab.measure.attribution.direct_logit import asked_tokens, in_chunks
from conceptlab.model import Model
from conceptlab.model.capture import Activations
from conceptlab.model.frozen_end import FrozenEnd, freeze_end
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "answer-writing heads",
    "paper": "Dutta et al. 2024, How to think step-by-step",
    "tags": ["lens", "heads"],
    "takes": "a model, texts, answer tokens",
    "returns": "Scores",
    "cost": "one forward, one unembedding a head of the last position",
}

ROUNDING = 1e-4  # nats: what single precision leaves of a head that writes nothing in the vocabulary


@torch.no_grad()
def answer_writers(  # noqa: PLR0913 - the lens and what to read through it
    model: Model,
    texts: Texts,
    answers: Sequence[int],
    *,
    pool: Sequence[int] | None = None,
    groups: Sequence[int | str] | None = None,
    n_random: int = 200,
    max_rows: int = 32,
    seed: int = 0,
) -> Scores:
    """Score every head by what it alone adds to the log-odds of `answers` (token ids [row]) at the last position.

    Axes layer, head: `score` mean gain in nats (`low`, `high` bootstrap over `groups`), `control` for random answers, `p`, `q`;
    `drop` mean share of the answer's lens probability after attention that is lost when the head stands alone (0: it writes all
    of it; below 0: the others write against it). `groups` [row] are rows that share content (default: an answer). Raises
    InputError for answers that do not fit the rows, SiteError where the model has no heads or no lens.
    """
    batch, before = model.encode(texts), model.forwards
    ids = asked_tokens(model, len(batch), answers, None)[:, 0]
    together = row_groups(ids.numpy() if groups is None else groups, len(batch))
    drawn = torch.from_numpy(token_pool(ids.numpy(), model.unembedding.shape[0], pool=pool, seed=seed))
    places = np.random.default_rng(seed).integers(0, len(drawn), (int(together.max()) + 1, n_random))[together]
    layers = model.layers_with("z")
    model.tap("z", layers[0] if layers else 0)  # says why, where no layer has heads
    found = []
    for rows in in_chunks(len(batch), max_rows):
        acts = model.capture(batch.select(rows), ["resid_pre", "attn_out", "z"], layers=layers)
        asked = torch.cat([ids[rows][:, None], drawn.expand(len(rows), -1)], 1)
        found.append(np.stack([_of_layer(model, acts, layer, asked) for layer in layers], 1))
    gain, drop = np.split(np.concatenate(found), [len(drawn) + 1], axis=-1)  # [row, layer, head, token], [..., 1]
    null = np.stack([gain[np.arange(len(batch)), ..., 1 + place].mean(0) for place in places.T])
    score = gain[..., 0].mean(0)
    low, high = bootstrap_mean(gain[..., 0], together, seed=seed)
    p = studentised_p(score, null, sided=1)
    columns = {"score": score, "low": low, "high": high, "control": null.mean(0), "p": p, "drop": drop[..., 0].mean(0)}
    columns["q"] = q_values(p.ravel()).reshape(p.shape)
    data = xr.Dataset(
        {name: (("layer", "head"), column) for name, column in columns.items()}, coords={"layer": list(layers)}
    )
    provenance = Provenance(
        "answer-writing heads", len(batch), seed, model.name, model.revision,
        settings={"n_random": n_random, "pool": len(drawn)}, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def _of_layer(model: Model, acts: Activations, layer: int, asked: Tensor) -> np.ndarray:
    """Gains [row, head, token] in the log-odds of every asked token, and last the answer's drop."""
    before, heads = acts.at("resid_pre", layer).float(), head_outputs(model, acts, layer)
    mid = before + acts.at("attn_out", layer).float()
    end = freeze_end(model, mid)
    base, whole = _log_odds(end, before, asked), _log_odds(end, mid, asked)[:, 0]
    found = []
    for head in range(heads.each.shape[1]):
        odds = _log_odds(end, before + heads.each[:, head], asked)
        drop = 1 - (odds[:, 0].sigmoid() / whole.sigmoid().clamp_min(1e-30))
        gain = (odds - base).masked_fill((odds - base).abs() < ROUNDING, 0.0)
        found.append(torch.cat([gain, drop[:, None]], 1))
    return torch.stack(found, 1).cpu().numpy()


def _log_odds(end: FrozenEnd, stream: Tensor, asked: Tensor) -> Tensor:
    """log P / (1 - P) [row, token] (float64) of the asked tokens [row, token] when `stream` [row, d_model] is read."""
    logits = end.logits(stream).double()
    every = torch.arange(logits.shape[-1]).expand(1, -1)
    logits = logits + end.select(torch.tensor([0])).constant(every).to(logits.device)
    if end.softcap is not None:
        logits = end.softcap * torch.tanh(logits / end.softcap)
    logp = logits.log_softmax(-1).gather(1, asked.to(logits.device))
    return logp - torch.log1p(-logp.exp().clamp_max(1 - 1e-15))
