"""Does the model use what a lens reads? Remove the stream directions that the lens is most sensitive to, beside a turned lens.

Sensitivity is the Fisher information of the lens's distribution in the stream (mean outer product of the gradients of log P of
tokens sampled from the lens), in units of the stream's own spread; its first eigenvectors span what is removed (moved to the
mean), and the model's own output is compared with and without. Source: Belrose et al. 2023 (causal basis extraction); departure:
one eigenproblem in place of sequential optimisation. Control: the directions of the same lens turned at random in the stream, which
is as sensitive and reads elsewhere. (Random directions would be too easy: any lens is most sensitive where the stream varies most,
and removing that hurts by itself.)
Cost: 1 + (1 + n_random) x layers forwards of the texts, one lens backward a sampled token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.measure.lenses.lens_pass import BUDGET_BYTES, Streams, Translator, log_probs, record_streams
from conceptlab.model import Model
from conceptlab.model.model import Texts
from conceptlab.model.spans import same_length_groups
from conceptlab.results import Edit, Provenance, Scores
from conceptlab.results.site import Site

CARD = {
    "name": "lens causality",
    "paper": "Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens",
    "tags": ["lens", "ablation", "depth"],
    "takes": "a model, layers, texts, a fitted lens or none",
    "returns": "Scores",
    "cost": "1 + (1 + n_random) x layers forwards of the texts",
}


def lens_causality(  # noqa: PLR0913 - one experiment, fully stated
    model: Model,
    layers: Sequence[int],
    texts: Texts,
    *,
    lens: Translator | None = None,
    rank: int = 4,
    n_samples: int = 4,
    n_random: int = 39,
    seed: int = 0,
) -> Scores:
    """Axis `layer`: `score` is KL(model || model without the lens's `rank` directions at L<layer>.resid_post), nats a token (`low`,
    `high` bootstrap over texts), `control` that of the lens turned at random (`control_high` 95 %), `p` one-sided, `q` over layers.

    Raises InputError for a rank that leaves nothing, or the last layer, where a lens is the model itself.
    """
    if not 0 < rank < model.d_model or not layers or not all(0 <= layer < model.n_layers - 1 for layer in layers):
        raise InputError(
            f"rank {rank} at layers {list(layers)}: ranks run from 1 to {model.d_model - 1}, layers from 0 to {model.n_layers - 2}"
        )
    before, streams = model.forwards, record_streams(model, texts, "all")
    rows = [_one_layer(model, layer, streams, lens, (rank, n_samples, n_random), seed) for layer in layers]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    columns["q"] = q_values(columns["p"])
    data = xr.Dataset({n: ("layer", v) for n, v in columns.items()}, coords={"layer": [str(layer) for layer in layers]})
    settings = {"rank": rank, "n_samples": n_samples, "n_random": n_random, "tuned": lens is not None}
    provenance = Provenance(
        "lens causality", len(streams.batch), seed, model.name, model.revision,
        settings=settings, passes=round(model.forwards - before), causal="ablation",
    )  # fmt: skip
    return Scores(data, provenance)


def _one_layer(
    model: Model, layer: int, streams: Streams, lens: Translator | None, sizes: tuple[int, int, int], seed: int
) -> dict[str, float]:
    """Effect of the lens's directions and of those of turned lenses at one layer."""
    rank, n_samples, n_random = sizes
    generator = torch.Generator().manual_seed(seed)
    stream = streams.values[:, layer + 1].detach()
    white = _Whitened.of(stream)
    if rank > white.width:
        raise InputError(
            f"the stream of these texts has {white.width} dimensions and {rank} were to be removed; give more texts"
        )
    fisher = _fisher(model, layer + 1, stream, lens, n_samples, generator)
    d_model = len(fisher)
    turns = torch.linalg.qr(torch.randn(n_random, d_model, d_model, generator=generator).double())[0]
    seen = [fisher, *(turn @ fisher @ turn.T for turn in turns)]
    removed = [torch.linalg.eigh(white.back.T @ f @ white.back)[1][:, -rank:] for f in seen]
    losses = [_without(model, layer, streams, white.without(stream, basis)) for basis in removed]
    score, null = losses[0], np.stack(losses[1:]).mean(1)
    low, high = bootstrap_mean(score, seed=seed)
    return {
        "score": float(score.mean()), "low": float(low), "high": float(high), "control": float(null.mean()),
        "control_high": float(np.quantile(null, 0.95)), "p": float((1 + (null >= score.mean()).sum()) / (1 + n_random)),
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Whitened:
    """The stream in units of its own spread: x = `to` (h - `mean`), h = `mean` + `back` x, where it has any (float64, CPU)."""

    mean: Tensor
    to: Tensor
    back: Tensor

    @property
    def width(self) -> int:
        return len(self.to)

    @classmethod
    def of(cls, stream: Tensor) -> "_Whitened":
        mean = stream.double().cpu().mean(0)
        centred = stream.double().cpu() - mean
        energy, basis = torch.linalg.eigh(centred.T @ centred / len(centred))
        kept = energy > 1e-6 * energy[-1]
        root, basis = energy[kept].sqrt(), basis[:, kept]
        return cls(mean, (basis / root).T, basis * root)

    def without(self, stream: Tensor, basis: Tensor) -> Tensor:
        """The stream with the coordinates along `basis` [width, rank] at their mean, as many units of spread whichever they are."""
        x = (stream.double().cpu() - self.mean) @ self.to.T
        return (stream.double().cpu() - x @ basis @ basis.T @ self.back.T).to(stream)


def _fisher(
    model: Model, at: int, stream: Tensor, lens: Translator | None, n_samples: int, generator: torch.Generator
) -> Tensor:
    """Mean outer product [d_model, d_model] of gradients of log P(token) at tokens drawn from the lens."""
    total = torch.zeros(stream.shape[1], stream.shape[1], dtype=torch.float64)
    for some in stream.split(128):
        x = some.clone().requires_grad_(True)
        read = x if lens is None else lens.translate(at, x).to(x.dtype)
        logp = model.lens(read).float().log_softmax(-1)
        for _ in range(n_samples):
            drawn = torch.multinomial(logp.detach().exp().cpu(), 1, generator=generator).to(logp.device)
            gradient = torch.autograd.grad(logp.gather(1, drawn).sum(), x, retain_graph=True)[0].double().cpu()
            total += gradient.T @ gradient
    return total / (len(stream) * n_samples)


@torch.no_grad()
def _without(model: Model, layer: int, streams: Streams, changed: Tensor) -> np.ndarray:
    """Mean KL over its tokens [text] of the model's output without and with `changed` [token, d_model] after block `layer`."""
    batch, size = streams.batch, model.unembedding.shape[0]
    kl = np.zeros(len(batch))
    for rows in same_length_groups(batch, max(1, BUDGET_BYTES // (8 * size * max(batch.lengths)))):
        mine = torch.from_numpy(np.concatenate([np.flatnonzero(streams.row == r) for r in rows]))
        some, last = batch.select(rows), streams.values[mine, -1]
        with model.edited(Edit(Site("resid_post", layer), "set", changed[mine])):
            end = model.capture(some, "resid_post", layers=[model.n_layers - 1], positions="all", max_tokens=10**9)
        clean, found = log_probs(model, last), log_probs(model, end["resid_post"][:, 0])
        each = (clean.exp() * (clean - found)).nan_to_num(0.0).sum(-1)
        kl[rows] = each.reshape(len(rows), -1).mean(1).cpu().numpy()
    return kl
