"""Affine translators in front of a lens: fitted by streaming, frozen, saved with the hash of the unembedding they were fitted to.

Each place (a layer's stream, a head's output) has h' = h + W h + b, with W and b starting at 0, so that weight decay pulls towards
the plain lens. The loss is KL(final distribution || lens of h') at the same position, in nats a token; never a label, which would
let the lens know what the model does not. Source: Belrose et al. 2023, Eliciting Latent Predictions with the Tuned Lens.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from conceptlab.errors import InputError, ResultError
from conceptlab.measure.lenses.lens_pass import token_chunks
from conceptlab.model import Model
from conceptlab.results import Provenance
from conceptlab.results.saving import load_result, save_result

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TunedLens:
    """`weight` [place, d_model, d_model] and `offset` [place, d_model] of the places `labels`; `unembedding` is its sha256."""

    weight: Tensor
    offset: Tensor
    labels: tuple[str, ...]
    unembedding: str
    provenance: Provenance

    def translate(self, at: int, stream: Tensor) -> Tensor:
        """Stream [token, d_model] of place `at` as the end of the model would read it."""
        x = stream.float()
        return x + x @ self.weight[at].to(x).T + self.offset[at].to(x)

    def save(self, folder: Path | str) -> None:
        """Write as safetensors and JSON into `folder`."""
        record = {
            "labels": list(self.labels),
            "unembedding": self.unembedding,
            "provenance": self.provenance.to_record(),
        }
        save_result(folder, "tuned_lens", record, {"weight": self.weight, "offset": self.offset})

    @classmethod
    def load(cls, folder: Path | str, model: Model) -> "TunedLens":
        """Read what `save` wrote. Raises ResultError where `model` has another unembedding or another number of layers."""
        record, tensors = load_result(folder, "tuned_lens")
        found = unembedding_hash(model)
        if found != record["unembedding"]:
            raise ResultError(
                f"{folder} was fitted to another unembedding ({record['unembedding'][:12]}) than that of {model.name} "
                f"({found[:12]}); fit a lens to this model"
            )
        provenance = Provenance.from_record(record["provenance"])
        return cls(tensors["weight"], tensors["offset"], tuple(record["labels"]), found, provenance)


def unembedding_hash(model: Model) -> str:
    """sha256 of W_U's bytes."""
    raw = model.unembedding.detach().cpu().contiguous().view(torch.uint8)
    return hashlib.sha256(raw.numpy().tobytes()).hexdigest()


class TunedLensFitter:
    """Fit translators from batches of streams; `update` as often as `n_steps` says, then `result`.

    `decode` [token, d_model] -> logits [token, d_vocab] is the frozen end of the model (`model.lens`). Adam (the default, for small
    models) warms up over a fifth of the steps; SGD has Nesterov momentum 0.9 and weight decay 1e-3; both fall linearly to 0.
    Gradients are clipped to norm 1 a place. Raises InputError for streams of another shape or more than `n_steps` updates.
    """

    def __init__(  # noqa: PLR0913 - the settings of one optimiser
        self,
        decode: Decode,
        n_places: int,
        d_model: int,
        *,
        n_steps: int,
        optimiser: Literal["adam", "sgd"] = "adam",
        lr: float | None = None,
        weight_decay: float = 1e-3,
        device: torch.device | str = "cpu",
    ) -> None:
        if optimiser not in ("adam", "sgd") or n_steps < 1:
            raise InputError(f"optimiser {optimiser!r} with {n_steps} steps; choose adam or sgd and at least one step")
        self.decode, self.n_steps, self.step = decode, n_steps, 0
        self.weights = [torch.zeros(d_model, d_model, device=device, requires_grad=True) for _ in range(n_places)]
        self.offsets = [torch.zeros(d_model, device=device, requires_grad=True) for _ in range(n_places)]
        self.optimiser = _optimiser(optimiser, [*self.weights, *self.offsets], lr, weight_decay)
        warm = min(n_steps // 5, 1000) if optimiser == "adam" else 0
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda i: min((i + 1) / (warm + 1), (n_steps - i) / (n_steps - warm), 1.0)
        )

    def update(self, streams: Tensor, final: Tensor) -> Tensor:
        """One step on `streams` [token, place, d_model] of which the last stream is `final` [token, d_model]; mean KL [place]."""
        if streams.shape[1:] != (len(self.offsets), *self.offsets[0].shape) or len(final) != len(streams):
            raise InputError(
                f"streams {list(streams.shape)} and ends {list(final.shape)} do not fit {len(self.offsets)} translators "
                f"of width {len(self.offsets[0])}; give [token, place, d_model] and [token, d_model]"
            )
        if self.step >= self.n_steps:
            raise InputError(f"the fit was set up for {self.n_steps} steps and has had them; give n_steps more")
        with torch.no_grad():
            size = self.decode(final[:1]).shape[-1]
        self.optimiser.zero_grad()
        lost = torch.zeros(streams.shape[1])
        for tokens in token_chunks(len(streams), size):
            with torch.no_grad():
                target = self.decode(final[tokens]).float().log_softmax(-1)
            for at in range(streams.shape[1]):  # one place's graph at a time
                loss = self._divergence(at, streams[tokens, at], target) / len(streams)
                own = (self.weights[at], self.offsets[at])
                # of the translators alone: the model's own parameters keep their gradients, None or not
                for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
                    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                lost[at] += float(loss.detach())
        for own in zip(self.weights, self.offsets, strict=True):
            torch.nn.utils.clip_grad_norm_(own, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        return lost

    def _divergence(self, at: int, stream: Tensor, target: Tensor) -> Tensor:
        x = stream.detach().float()
        moved = x + x @ self.weights[at].T + self.offsets[at]
        found = self.decode(moved.to(stream.dtype)).float().log_softmax(-1)
        return (target.exp() * (target - found)).nan_to_num(0.0).sum()

    def result(self, labels: tuple[str, ...], unembedding: str, provenance: Provenance) -> TunedLens:
        """The translators as they are now."""
        return TunedLens(
            torch.stack(self.weights).detach().cpu(),
            torch.stack(self.offsets).detach().cpu(),
            labels,
            unembedding,
            provenance,
        )


def _optimiser(kind: str, parameters: list[Tensor], lr: float | None, weight_decay: float) -> torch.optim.Optimizer:
    if kind == "sgd":
        rate = 0.1 if lr is None else lr  # 1.0 x (1 - momentum)
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    return torch.optim.Adam(parameters, lr=1e-3 if lr is None else lr)
