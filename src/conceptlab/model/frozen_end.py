"""The end of a model as a fixed linear map: final norm held at the real final stream, unembedding, logit scale; before a soft cap.

What parts of the final stream say then adds up exactly: sum of `logits(part)` + `constant` = the logits before the cap.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.frozen_norm import FrozenNorm, allowed_error, freeze_norm, no_norm
from conceptlab.model.model import Model


@dataclass(frozen=True, eq=False)
class FrozenEnd:
    """`norm` frozen at each token's final stream; `unembedding` [d_vocab, d_model], its bias [d_vocab] or None, logit `scale`."""

    norm: FrozenNorm
    unembedding: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def directions(self, tokens: Tensor) -> Tensor:
        """Stream directions [token, k, d_model] (float64) whose product with a part is that part's logit of `tokens` [token, k]."""
        return self.norm.pull(self._rows(tokens) * self.scale)

    def between(self, right: Tensor, wrong: Tensor) -> Tensor:
        """Directions [token, k, d_model] of logit(right) - logit(wrong), for token ids [token, k]."""
        return self.norm.pull((self._rows(right) - self._rows(wrong)) * self.scale)

    def constant(self, tokens: Tensor) -> Tensor:
        """What the norm's and the unembedding's biases give to `tokens` [token, k], [token, k] float64, whatever the stream."""
        made = (self._rows(tokens) @ self.norm.bias.double()) * self.scale
        return made if self.bias is None else made + self.bias[tokens.to(self.bias.device)].double() * self.scale

    def logits(self, parts: Tensor) -> Tensor:
        """Logits [token, ..., d_vocab] of parts [token, ..., d_model], without the constant and before a soft cap.

        They are as large as they sound: hand in few tokens at a time.
        """
        read = self.norm.of(parts.float()).to(self.unembedding)
        return (read @ self.unembedding.T).float() * self.scale

    def select(self, tokens: Tensor) -> "FrozenEnd":
        """The same for some of the tokens."""
        return FrozenEnd(self.norm.select(tokens), self.unembedding, self.bias, self.scale, self.softcap)

    def _rows(self, tokens: Tensor) -> Tensor:
        return self.unembedding[tokens.to(self.unembedding.device)].double()


@torch.no_grad()
def freeze_end(model: Model, final: Tensor) -> FrozenEnd:
    """Freeze the end of `model` at final streams [token, d_model] (the output of the last block).

    Raises SiteError where the model has no lens, its final norm is no norm, or the map does not give back the model's own lens.
    """
    head = model.stack.unembed
    if head is None or {"logits", "lens"} & set(model.stack.missing):
        model.lens(final[:1])  # raises with the reason
        raise SiteError(f"{model.name} has no unembedding, so nothing can be said in its vocabulary")
    norm = end_norm(model, final)
    bias = getattr(head, "bias", None)
    bias = bias.detach() if isinstance(bias, Tensor) else None
    end = FrozenEnd(norm, model.unembedding.detach(), bias, model.stack.logit_scale, model.stack.softcap)
    _check(model, end, final)
    return end


@torch.no_grad()
def end_norm(model: Model, final: Tensor) -> FrozenNorm:
    """The final norm held at streams [token, d_model]. Raises SiteError where it is no norm."""
    tap = model.stack.final_norm
    if tap is None:
        return no_norm(final)
    made = tap.module(final[None])
    made = made if tap.key is None else made[tap.key]
    return freeze_norm(tap.module, final, made[0], name=f"{model.name}: the final norm")


def _check(model: Model, end: FrozenEnd, final: Tensor) -> None:
    """The frozen map on a whole stream is the model's lens, tried on the first and the last token."""
    for i in sorted({0, len(final) - 1}) if len(final) else []:
        one = torch.tensor([i])
        whole = end.select(one).logits(final[i : i + 1])
        every = torch.arange(whole.shape[-1])
        found = whole[0] + end.select(one).constant(every[None]).float()[0].to(whole.device)
        found = found if end.softcap is None else end.softcap * torch.tanh(found / end.softcap)
        wanted = model.lens(final[i : i + 1])[0].float()
        if not bool((found - wanted).norm() <= allowed_error(final.dtype) * wanted.norm()):
            raise SiteError(f"{model.name}: its end is no norm and unembedding, so logits cannot be split over parts")
