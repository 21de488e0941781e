"""Which neurons of a text model turn a picture into its words? Activation x gradient at its soft tokens, picture by picture.

Score of a neuron for one picture: sum over its patches of activation x d logit(noun) / d activation (Schwettmann et al. 2023).
Control: the same towards other nouns of the list, `n_random` of them for every picture; p pooled over all pictures and neurons
(one-sided), q over all of them. The others must be words of the same kind: what a model does for nouns it may not do for any word.
Ablating the best says whether the caption needs them: `without_neurons` sets the `top` of
every picture to 0 on its patches, beside as many random neurons of the same layers.
Cost: 1 + n_random forwards and backwards of every picture; one forward for each ablation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from conceptlab.errors import InputError
from conceptlab.evidence import pooled_p, q_values
from conceptlab.model import Batch, Model
from conceptlab.model.gradients import Place, gradients
from conceptlab.model.instrument import Visit
from conceptlab.model.metric import log_prob, logit
from conceptlab.model.model import Texts
from conceptlab.results import Provenance, Scores

CARD = {
    "name": "multimodal neurons",
    "paper": "Schwettmann et al. 2023, Multimodal Neurons in Pretrained Text-Only Transformers",
    "tags": ["neurons", "attribution", "multimodal"],
    "takes": "a text model, soft tokens of pictures and their places, nouns",
    "returns": "Scores",
    "cost": "1 + n_random forwards and backwards of every picture",
}


@dataclass(frozen=True, eq=False)
class Pictures:
    """Texts of one length whose tokens at `places` are taken by `soft` [picture, place, d_model], as they enter the first block."""

    model: Model
    batch: Batch
    stream: Tensor  # [picture, pos, d_model]
    places: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, texts: Texts, soft: Tensor, places: Sequence[int]) -> "Pictures":
        """Put soft tokens in. Raises InputError for texts of several lengths, or soft tokens of another number or width."""
        batch = model.encode(texts)
        if len(set(batch.lengths)) != 1 or any(not 0 <= p < batch.lengths[0] for p in places):
            raise InputError(
                f"texts have {sorted(set(batch.lengths))} tokens; give one length, with places {list(places)} in it"
            )
        wanted = (len(batch), len(places), model.d_model)
        if tuple(soft.shape) != wanted:
            raise InputError(f"soft tokens are {tuple(soft.shape)}; {wanted} are wanted: pictures, places, d_model")
        stream = model.capture(batch, "embed", positions="all")["embed"].unflatten(0, (len(batch), -1)).float().clone()
        stream[:, list(places)] = soft.to(stream)
        return cls(model, batch, stream, tuple(places))

    def values(self, nouns: Sequence[int], *, off: Mapping[int, np.ndarray] | None = None) -> np.ndarray:
        """log P(noun) [picture]; `off` {layer: [picture, neuron]} are 0 at the places."""

        def away(mask: Tensor) -> Visit:
            def visit(view: Tensor) -> Tensor:
                view = view.clone()
                here = view[:, list(self.places)]
                view[:, list(self.places)] = torch.where(mask[:, None].to(view.device), 0.0, here)
                return view

            return visit

        given: dict[Place, Visit] = {
            ("mlp_post", layer): away(torch.from_numpy(mask)) for layer, mask in (off or {}).items()
        }
        found = gradients(self.model, self.batch, log_prob(nouns), embed=self.stream, given=given)
        return found.metric.cpu().numpy()


def multimodal_neurons(  # noqa: PLR0913 - one experiment, fully stated
    pictures: Pictures, nouns: Sequence[int], others: Sequence[int], *, n_random: int = 10, seed: int = 0
) -> Scores:
    """Axes (picture, layer, neuron): `score`, `control` (mean over other nouns), `p`, `q`. `nouns` [picture] are token ids,
    `others` ids that other nouns are drawn from; where a neuron fires says `activation_map`.

    Raises InputError for nouns that do not fit; SiteError where no layer has neurons.
    """
    model = pictures.model
    layers = model.layers_with("mlp_post")
    if not layers:
        model.tap("mlp_post", 0)  # says why no layer has them
    pool = sorted(set(others))
    if len(nouns) != len(pictures.batch) or any(len(set(pool) - {noun}) < n_random for noun in nouns):
        raise InputError(
            f"{len(nouns)} nouns for {len(pictures.batch)} pictures, {len(pool)} others; give one a picture and more others"
        )
    rng, before = np.random.default_rng(seed), model.forwards
    drawn = np.array([rng.choice([o for o in pool if o != noun], n_random, replace=False) for noun in nouns]).T
    score, *null = (_attributed(pictures, layers, list(ids)) for ids in (nouns, *drawn.tolist()))
    p = pooled_p(score.reshape(-1), np.stack(null).reshape(n_random, -1))
    q = q_values(p).reshape(score.shape)
    columns = {"score": score, "control": np.mean(null, axis=0), "p": p.reshape(score.shape), "q": q}
    data = xr.Dataset(
        {n: (("picture", "layer", "neuron"), v) for n, v in columns.items()}, coords={"layer": list(layers)}
    )
    provenance = Provenance(
        "multimodal neurons", len(nouns), seed, model.name, model.revision, settings={"n_random": n_random},
        passes=round(model.forwards - before),
    )  # fmt: skip
    return Scores(data, provenance)


def _attributed(pictures: Pictures, layers: Sequence[int], nouns: Sequence[int]) -> np.ndarray:
    places = [("mlp_post", layer) for layer in layers]
    found = gradients(pictures.model, pictures.batch, logit(nouns), places, embed=pictures.stream)
    at = list(pictures.places)
    parts = [(found.values[p][:, at] * found.grads[p][:, at]).sum(1) for p in places]
    return torch.stack(parts, 1).double().cpu().numpy()


def activation_map(pictures: Pictures, layer: int, neurons: Sequence[int]) -> np.ndarray:
    """Activation [picture, place] of one neuron a picture."""
    found = gradients(
        pictures.model,
        pictures.batch,
        logit([0] * len(neurons)),
        only_values=[("mlp_post", layer)],
        embed=pictures.stream,
    )
    values = found.values["mlp_post", layer][:, list(pictures.places)]
    return values[np.arange(len(neurons)), :, list(neurons)].float().cpu().numpy()


def without_neurons(
    pictures: Pictures, found: Scores, nouns: Sequence[int], *, top: int = 20, n_random: int = 20, seed: int = 0
) -> Scores:
    """Axis picture: `score`, log P(noun) lost without its `top` neurons, `control` the mean over random ones of the same layers."""
    score, layers = found["score"].values, found["layer"].values.tolist()
    best = np.zeros(score.shape, dtype=bool)
    flat = best.reshape(len(best), -1)
    np.put_along_axis(flat, np.argsort(-score.reshape(flat.shape), axis=1, kind="stable")[:, :top], True, axis=1)
    rng, clean = np.random.default_rng(seed), pictures.values(nouns)
    lost = [clean - pictures.values(nouns, off={layer: best[:, i] for i, layer in enumerate(layers)})]
    for _ in range(n_random):
        other = np.zeros_like(best)
        for picture, axis in np.argwhere(best.any(2)):
            free = np.flatnonzero(~best[picture, axis])
            other[picture, axis, rng.choice(free, best[picture, axis].sum(), replace=False)] = True
        lost.append(clean - pictures.values(nouns, off={layer: other[:, i] for i, layer in enumerate(layers)}))
    columns = {"score": lost[0], "control": np.mean(lost[1:], axis=0), "clean": clean}
    provenance = Provenance(
        "pictures without neurons", len(nouns), seed, pictures.model.name, pictures.model.revision, causal="ablation",
        settings={"top": top, "n_random": n_random}, passes=len(nouns) * (2 + n_random),
    )  # fmt: skip
    return Scores(xr.Dataset({n: ("picture", v) for n, v in columns.items()}), provenance)
