"""Attention lens: an affine map a head, trained so that the head's own output says what the model will say, beside the head as is.

What a head adds to the stream, o = z W_O, goes through h = o + W o + b into the model's own final norm and unembedding; W and b
are fitted like a tuned lens (KL to the final distribution), so they can only carry what the head's output holds. Source:
Sakarvadia et al. 2023, Attention Lens. Departure: the map stays in front of the model's unembedding in place of a vocabulary-sized
one of its own.
Control: the same fit with outputs shuffled over tokens; `free` is the head read without a map.
Cost: two forwards of the texts and `n_steps` lens backward passes a head, twice with the control.
"""

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import bootstrap_mean, q_values
from conceptlab.evidence.sign_flips import sign_flip_p
from conceptlab.measure.lenses.lens_pass import log_probs
from conceptlab.measure.lenses.translators import TunedLens, TunedLensFitter, unembedding_hash
from conceptlab.model import Model
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "attention lens",
    "paper": "Sakarvadia et al. 2023, Attention Lens",
    "tags": ["lens", "heads", "logits"],
    "takes": "a model, a layer, texts to fit on, texts held out",
    "returns": "Scores",
    "cost": "two forwards of the texts, n_steps lens backward passes a head, twice",
}


def attention_lens(  # noqa: PLR0913 - the settings of one fit
    model: Model,
    layer: int,
    texts: Texts,
    held_out: Texts,
    *,
    n_steps: int = 300,
    tokens_per_step: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
) -> Scores:
    """Axis `head` of one layer: KL(model || lens of the head's output) on held-out tokens, nats.

    `score` trained (`low`, `high` bootstrap over texts), `control` trained on shuffled tokens, `free` untrained; `p` one-sided that
    trained lies below control (sign flips over texts), `q` over heads.
    Raises SiteError where the layer's attention cannot be split over heads, InputError for fewer than two held-out texts.
    """
    before = model.forwards
    each, final, _ = _outputs(model, layer, texts)
    tested, ends, row = _outputs(model, layer, held_out)
    if len(np.unique(row)) < 2:
        raise InputError("give at least two held-out texts, so that their spread is known")
    fits = {
        name: _fit(model, each, final, n_steps, tokens_per_step, lr, seed, name == "control")
        for name in ("score", "control")
    }
    kl = {name: _divergence(model, lens, tested, ends, row) for name, lens in {**fits, "free": None}.items()}
    low, high = bootstrap_mean(kl["score"], seed=seed)
    p = sign_flip_p(kl["control"] - kl["score"], seed=seed)
    columns = {name: values.mean(0) for name, values in kl.items()} | {
        "low": low,
        "high": high,
        "p": p,
        "q": q_values(p),
    }
    data = xr.Dataset({n: ("head", v) for n, v in columns.items()}, coords={"head": np.arange(model.n_heads)})
    settings = {"layer": layer, "n_steps": n_steps, "tokens_per_step": tokens_per_step, "lr": lr}
    passes = round(model.forwards - before)
    provenance = Provenance(
        "attention lens", len(kl["score"]), seed, model.name, model.revision, settings=settings, passes=passes
    )
    return Scores(data, provenance)


@torch.no_grad()
def _outputs(model: Model, layer: int, texts: Texts) -> tuple[Tensor, Tensor, np.ndarray]:
    """Outputs [token, head, d_model] of one layer's heads, the final stream and the text of each token."""
    batch = model.encode(texts)
    acts = model.capture(batch, ["z", "attn_out"], layers=[layer], positions="all")
    final = model.capture(batch, "resid_post", layers=[model.n_layers - 1], positions="all")
    return head_outputs(model, acts, layer).each, final["resid_post"][:, 0], acts.row


def _fit(  # noqa: PLR0913 - the settings of one fit
    model: Model, each: Tensor, final: Tensor, n_steps: int, size: int, lr: float, seed: int, shuffled: bool
) -> TunedLens:
    fitter = TunedLensFitter(model.lens, each.shape[1], each.shape[2], n_steps=n_steps, lr=lr, device=each.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(each), generator=generator) if shuffled else torch.arange(len(each))
    for _ in range(n_steps):
        tokens = torch.randint(0, len(each), (min(size, len(each)),), generator=generator)
        fitter.update(each[order[tokens]].to(final.dtype), final[tokens])
    labels = tuple(str(head) for head in range(each.shape[1]))
    return fitter.result(labels, unembedding_hash(model), Provenance("attention lens", len(each), seed))


@torch.no_grad()
def _divergence(model: Model, lens: TunedLens | None, each: Tensor, final: Tensor, row: np.ndarray) -> np.ndarray:
    """Mean KL [text, head]."""
    kl = np.zeros(each.shape[:2])
    for start in range(0, len(each), 256):
        some = slice(start, start + 256)
        target = log_probs(model, final[some])
        for head in range(each.shape[1]):
            read = each[some, head] if lens is None else lens.translate(head, each[some, head])
            found = log_probs(model, read.to(final.dtype))
            kl[some, head] = (target.exp() * (target - found)).nan_to_num(0.0).sum(-1).cpu().numpy()
    return np.stack([kl[row == r].mean(0) for r in np.unique(row)])
