"""Tuned lens: the logit lens behind one affine map a layer, fitted to what the model itself will say; how much nearer it comes.

`fit_tuned_lens` gives the frozen lens, which `logit_lens(translator=...)` reads through; `tuned_lens` fits it and measures it on
texts held out. Source: Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens.
Control: the same fit with the streams shuffled over tokens, which can learn the mean prediction and nothing else.
Cost: one forward and L lens backward passes of the batch a step (no backward through the model), twice with the control.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.measure.lenses.lens_pass import Translator, lens_pieces, record_streams
from conceptlab.measure.lenses.translators import TunedLens, TunedLensFitter, unembedding_hash
from conceptlab.model import Model
from conceptlab.model.batch import Batch
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "tuned lens",
    "paper": "Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens",
    "tags": ["lens", "depth", "logits"],
    "takes": "a model, texts to fit on, texts held out",
    "returns": "Scores",
    "cost": "a forward and a lens backward a layer of each batch, twice with the control",
}


def fit_tuned_lens(  # noqa: PLR0913 - the settings of one fit
    model: Model,
    texts: Texts,
    *,
    n_steps: int = 600,
    rows_per_step: int = 16,
    optimiser: Literal["adam", "sgd"] = "adam",
    lr: float | None = None,
    shuffled: bool = False,
    seed: int = 0,
) -> TunedLens:
    """Fit a translator for the embedding and every block but the last, on all real tokens of the texts.

    Published settings: SGD, 250 steps of 2^18 tokens, lr 0.1 behind momentum 0.9; small models do with Adam at 1e-3.
    `shuffled` pairs streams with the ends of other tokens (the control). Raises SiteError where the model has no lens.
    """
    batch = model.encode(texts)
    before, labels = model.forwards, ("embed", *map(str, range(model.n_layers - 1)))
    fitter = TunedLensFitter(
        model.lens, len(labels), model.d_model, n_steps=n_steps, optimiser=optimiser, lr=lr, device=model.device
    )
    generator = torch.Generator().manual_seed(seed)
    lost = torch.zeros(len(labels))
    for rows in _rounds(batch, rows_per_step, n_steps, seed):
        streams, final = _taken(model, batch.select(rows))
        if shuffled:
            streams = streams[torch.randperm(len(streams), generator=generator)]
        lost = fitter.update(streams, final)
    settings = {
        "n_steps": n_steps,
        "rows_per_step": rows_per_step,
        "optimiser": optimiser,
        "lr": lr,
        "shuffled": shuffled,
    }
    provenance = Provenance(
        "tuned lens", len(batch), seed, model.name, model.revision,
        settings=settings | {"last_kl": lost.tolist()}, passes=round(model.forwards - before),
    )  # fmt: skip
    return fitter.result(labels, unembedding_hash(model), provenance)


def _taken(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
    streams = record_streams(model, batch, "all")
    return streams.values[:, :-1], streams.values[:, -1]


def _rounds(batch: Batch, size: int, n_steps: int, seed: int) -> Iterator[list[int]]:
    """`n_steps` sets of rows: the texts in a new seeded order, round after round."""
    rng = np.random.default_rng(seed)
    queue: list[int] = []
    for _ in range(n_steps):
        while len(queue) < min(size, len(batch)):
            queue += rng.permutation(len(batch)).tolist()
        yield queue[:size]
        queue = queue[size:]


def tuned_lens(
    model: Model,
    texts: Texts,
    held_out: Texts,
    *,
    lens: TunedLens | None = None,
    control: TunedLens | None = None,
    seed: int = 0,
    **settings: object,
) -> Scores:
    """Axis `layer` (embed, 0, ..., without the last): KL(model || lens) on the held-out texts, nats a token.

    `score` tuned (`low`, `high` bootstrap over texts), `control` fitted on shuffled streams, `logit_lens` untranslated, `marginal`
    of the mean prediction; `agree`, `agree_control`, `agree_logit_lens` shares of tokens with the model's first choice;
    `p` one-sided that tuned lies below control (sign flips over texts), `q` over layers. `settings` go to `fit_tuned_lens`; a
    fitted `lens` or `control` is taken as it is. Raises InputError for fewer than two held-out texts.
    """
    batch = model.encode(held_out)
    if len(batch) < 2:
        raise InputError("give at least two held-out texts, so that their spread is known")
    fitted = lens or fit_tuned_lens(model, texts, seed=seed, **settings)  # type: ignore[arg-type]
    null = control or fit_tuned_lens(model, texts, seed=seed, shuffled=True, **settings)  # type: ignore[arg-type]
    found = {
        name: divergence(model, batch, lens) for name, lens in (("", fitted), ("control", null), ("logit_lens", None))
    }
    data = _table(found, list(fitted.labels), marginal_divergence(model, batch), seed)
    provenance = Provenance(
        "tuned lens", len(batch), seed, model.name, model.revision, settings=dict(fitted.provenance.settings),
        passes=fitted.provenance.passes + null.provenance.passes + 4 * len(batch),
    )  # fmt: skip
    return Scores(data, provenance)


def divergence(model: Model, batch: Batch, lens: Translator | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean KL to the final distribution and share of equal first choices, both [text, layer] without the last layer."""
    streams = record_streams(model, batch, "all")
    n = len(streams.labels) - 1
    kl, agree = np.zeros((len(streams.row), n)), np.zeros((len(streams.row), n))
    for tokens, at, logp, final in lens_pieces(model, streams, lens):
        if at < n:
            kl[tokens, at] = (final.exp() * (final - logp)).nan_to_num(0.0).sum(-1).cpu().numpy()
            agree[tokens, at] = (final.argmax(-1) == logp.argmax(-1)).cpu().numpy()
    rows = [streams.row == r for r in range(len(batch))]
    return np.stack([kl[r].mean(0) for r in rows]), np.stack([agree[r].mean(0) for r in rows])


def marginal_divergence(model: Model, batch: Batch) -> float:
    """KL(model || its mean prediction over these tokens), nats a token: what a lens that sees nothing can reach."""
    streams = record_streams(model, batch, "all")
    mean, entropy, n = torch.zeros(()), 0.0, len(streams.row)
    for _, at, _, final in lens_pieces(model, streams):
        if at == 0:
            p = final.double().exp()
            mean, entropy = mean.to(p) + p.sum(0) / n, entropy + float((p * final.double()).nan_to_num(0.0).sum()) / n
    return entropy - float((mean * mean.clamp_min(1e-300).log()).sum())


def _table(
    found: dict[str, tuple[np.ndarray, np.ndarray]], labels: Sequence[str], marginal: float, seed: int
) -> xr.Dataset:
    kl, agree = found[""]
    low, high = bootstrap_mean(kl, seed=seed)
    p = sign_flip_p(found["control"][0] - kl, seed=seed)
    columns = {
        "score": kl.mean(0),
        "low": low,
        "high": high,
        "control": found["control"][0].mean(0),
        "logit_lens": found["logit_lens"][0].mean(0),
        "marginal": np.full(len(labels), marginal),
        "agree": agree.mean(0),
        "agree_control": found["control"][1].mean(0),
        "agree_logit_lens": found["logit_lens"][1].mean(0),
        "p": p,
        "q": q_values(p),
    }
    return xr.Dataset({name: ("layer", column) for name, column in columns.items()}, coords={"layer": list(labels)})
