"""Logit lens: what each layer's stream would say if the model ended there, by its own final norm and unembedding.

At every layer and position: the likeliest tokens, entropy, divergence from the final distribution, and probability and rank of
target tokens; and the layer from which the first choice does not change any more. Source: nostalgebraist 2020. With `translator`
(a fitted tuned lens) the same read-outs. Early layers of models with tied embeddings say their input back: `input_rank` shows it.
Control: random tokens in the targets' place, which is what shuffled rows of the unembedding give (rank about half the vocabulary).
Cost: one forward, and one unembedding of the asked positions a layer, in pieces within `budget_bytes`.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, permutation_p, q_values
from conceptlab.evidence.random_tokens import token_pool
from conceptlab.measure.lenses.lens_pass import BUDGET_BYTES, Streams, Translator, lens_pieces, record_streams
from conceptlab.measure.lenses.targets import token_texts
from conceptlab.model import Model
from conceptlab.model.layout import Positions
from conceptlab.model.model import Texts
from conceptlab.numerics.token_ranks import ranks
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "logit lens",
    "paper": "nostalgebraist 2020, interpreting GPT: the logit lens",
    "tags": ["lens", "depth", "logits"],
    "takes": "a model, texts, target tokens or none",
    "returns": "Scores",
    "cost": "one forward, one unembedding a layer of the asked positions",
}
RANKED = 8  # random tokens whose rank is counted; their probability is read for all draws


def logit_lens(  # noqa: PLR0913 - the lens and what to read through it
    model: Model,
    texts: Texts,
    targets: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
    *,
    positions: Positions = "last",
    translator: Translator | None = None,
    target_names: Sequence[str] | None = None,
    pool: Sequence[int] | None = None,
    k: int = 5,
    n_random: int = 200,
    budget_bytes: int = BUDGET_BYTES,
    seed: int = 0,
) -> Scores:
    """Read every layer (`embed`, 0, ...) at the asked positions; `targets` [token] or [token, target] are ids (None: what the
    model itself chooses).

    Axes layer, target: `score` mean log-probability (nats; `low`, `high` bootstrap over texts), `control` that of random tokens,
    `rank` and `rank_control` mean ranks (1: first), `p` one-sided, `q` over layers and targets.
    Axes layer, token: `entropy`, `kl_final` (nats), `input_rank`, and with axis k `top_id`, `top_prob`, `top_text`; with axis
    target `target_prob`, `target_rank`, `target_logprob`. `commit` [token] is the first place on the layer axis from which
    the top choice stays. Raises InputError for targets that do not fit, SiteError where the model has no lens.
    """
    before = model.forwards
    streams = record_streams(model, texts, positions)
    wanted = _targets(model, streams, targets)
    rng = np.random.default_rng(seed)
    drawn = token_pool(wanted.numpy(), model.unembedding.shape[0], pool=pool, seed=seed)
    random = torch.from_numpy(drawn[rng.integers(0, len(drawn), (len(wanted), n_random))])
    found = _read(model, streams, translator, wanted, random, min(k, model.unembedding.shape[0]), budget_bytes)
    names = list(target_names or (["target"] if wanted.shape[1] == 1 else map(str, range(wanted.shape[1]))))
    if len(names) != wanted.shape[1]:
        raise InputError(f"{len(names)} target names came for {wanted.shape[1]} targets; give one for each")
    settings = {"k": k, "n_random": n_random, "pool": len(drawn), "translated": translator is not None}
    provenance = Provenance(
        "logit lens" if translator is None else "tuned lens", len(streams.batch), seed, model.name, model.revision,
        settings=settings, passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(_table(model, streams, found, wanted, names, seed), provenance)


def _targets(model: Model, streams: Streams, targets: object) -> Tensor:
    n = len(streams.values)
    if targets is None:
        return torch.cat([model.lens(x[None]).argmax(-1) for x in streams.values[:, -1].detach()])[:, None].cpu()
    ids = torch.as_tensor(targets, dtype=torch.long)
    ids = ids[:, None] if ids.dim() == 1 else ids
    if ids.dim() != 2 or len(ids) != n:
        raise InputError(
            f"targets of shape {list(ids.shape)} came for {n} read positions; give [position] or [position, target]"
        )
    if int(ids.min()) < 0 or int(ids.max()) >= model.unembedding.shape[0]:
        raise InputError(f"a target is outside the vocabulary of {model.unembedding.shape[0]}; ids run from 0")
    return ids


def _read(  # noqa: PLR0913 - private half of logit_lens
    model: Model, streams: Streams, translator: Translator | None, wanted: Tensor, random: Tensor, k: int, budget: int
) -> dict[str, np.ndarray]:
    """Every read-out with leading axes [layer, token]."""
    n_layers, n = len(streams.labels), len(streams.values)
    found: dict[str, np.ndarray] = {}
    for tokens, at, logp, final in lens_pieces(model, streams, translator, budget):
        for name, value in _read_out(logp, final, wanted[tokens], random[tokens], streams.input[tokens], k).items():
            if name not in found:
                found[name] = np.zeros((n_layers, n, *value.shape[1:]), dtype=value.dtype)
            found[name][at, tokens] = value
    return found


def _read_out(
    logp: Tensor, final: Tensor, wanted: Tensor, random: Tensor, given: Tensor, k: int
) -> dict[str, np.ndarray]:
    """One piece: log-probabilities [token, d_vocab] become what is kept of them."""
    top = logp.topk(k, -1)
    on = logp.device
    found = {
        "top_id": top.indices,
        "top_prob": top.values.exp(),
        "entropy": -(logp.exp() * logp).nan_to_num(0.0).sum(-1),
        "kl_final": (final.exp() * (final - logp)).nan_to_num(0.0).sum(-1),
        "target_logprob": logp.gather(1, wanted.to(on)),
        "target_rank": ranks(logp, wanted),
        "input_rank": ranks(logp, given[:, None])[:, 0],
        "random_logprob": logp.gather(1, random.to(on)),
        "random_rank": ranks(logp, random[:, :RANKED]).mean(1),
    }
    return {name: value.cpu().numpy() for name, value in found.items()}


def _table(
    model: Model, streams: Streams, found: dict[str, np.ndarray], wanted: Tensor, names: list[str], seed: int
) -> xr.Dataset:
    values = found["target_logprob"].astype(float)
    score, null = values.mean(1), found.pop("random_logprob").astype(float).mean(1)
    low, high = bootstrap_mean(np.moveaxis(values, 1, 0), streams.row, seed=seed)
    p = permutation_p(score, np.moveaxis(null, 1, 0)[:, :, None])
    by = ("layer", "target")
    over = np.broadcast_to
    data = {
        "score": (by, score),
        "low": (by, low),
        "high": (by, high),
        "control": (by, over(null.mean(1)[:, None], score.shape).copy()),
        "rank": (by, found["target_rank"].mean(1)),
        "rank_control": (by, over(found.pop("random_rank").mean(1)[:, None], score.shape).copy()),
        "p": (by, p),
        "q": (by, q_values(p.ravel()).reshape(p.shape)),
        "target_prob": (("layer", "token", "target"), np.exp(values)),
        "target_id": (("token", "target"), wanted.numpy()),
        "top_text": (("layer", "token", "k"), token_texts(model, found["top_id"])),
        "commit": ("token", _commit(found["top_id"][..., 0])),
    }
    axes = {"top_id": ["k"], "top_prob": ["k"], "target_logprob": ["target"], "target_rank": ["target"]}
    data |= {name: (("layer", "token", *axes.get(name, [])), value) for name, value in found.items()}
    inputs = token_texts(model, streams.input.numpy())
    coords = {
        "layer": list(streams.labels), "target": names, "row": ("token", streams.row),
        "position": ("token", streams.position), "input": ("token", inputs),
    }  # fmt: skip
    return xr.Dataset(data, coords=coords)


def _commit(top: np.ndarray) -> np.ndarray:
    """First place on the layer axis from which the top choice [layer, token] is the final one and stays it."""
    same = top == top[-1]
    changed = np.where(~same, np.arange(len(top))[:, None], -1).max(0)
    return changed + 1
