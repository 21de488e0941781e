"""One rule for each kind of module through which a split activation goes: relevant and irrelevant part, stacked along axis 0.

A stacked tensor [2k, ...] holds k relevant parts and then the k irrelevant ones; their sum is the true activation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from conceptlab.model.attention import AttentionCall, form_pattern, mix_values

Rule = Literal["fixed", "relevant", "removal"]
RULES: tuple[Rule, ...] = ("fixed", "relevant", "removal")


def halves(stacked: Tensor) -> tuple[Tensor, Tensor]:
    """Relevant and irrelevant part of a stacked tensor."""
    relevant, irrelevant = stacked.chunk(2)
    return relevant, irrelevant


def with_bias(relevant: Tensor, irrelevant: Tensor, bias: Tensor, rule: Rule) -> Tensor:
    """Add a bias, dealt out by the sizes of the two parts, entry by entry; where the relevant part is 0 it gets none of it.

    Under `removal` all of it is irrelevant: it stays where the source is taken out.
    """
    if rule == "removal":
        return torch.cat([relevant, irrelevant + bias])
    size = relevant.abs()
    whole = size + irrelevant.abs()
    share = torch.where(size > 0, size / whole.clamp_min(torch.finfo(whole.dtype).tiny), 0.0) * bias
    return torch.cat([relevant + share, irrelevant + (bias - share)])


def linear_rule(stacked: Tensor, bias: Tensor | None, rule: Rule) -> Tensor | None:
    """What a linear map gave for both parts, `stacked`, holds its bias twice: deal out one. None where there is nothing to do."""
    if bias is None:
        return None
    relevant, irrelevant = halves(stacked)
    return with_bias(relevant - bias, irrelevant - bias, bias, rule)


@dataclass(frozen=True, eq=False)
class NormForm:
    """norm(x) = gain * centre(x) * scale(x) + bias, found by asking the module; `gain`, `bias` [1, ...] (scale of the probe in
    `gain`), `centred` says whether the mean of the last axis is taken away first."""

    gain: Tensor
    bias: Tensor
    centred: bool

    def direction(self, x: Tensor) -> Tensor:
        """gain * centre(x): the norm without its scale."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)

    def scale(self, x: Tensor, normed: Tensor) -> Tensor:
        """scale(x) [..., 1], from what the module gave for x."""
        direction = self.direction(x)
        energy = direction.square().sum(-1, keepdim=True)
        return ((normed - self.bias) * direction).sum(-1, keepdim=True) / energy.clamp_min(torch.finfo(x.dtype).tiny)


def norm_form(forward: Callable[[Tensor], Tensor], x: Tensor, tolerance: float) -> NormForm | None:
    """The form of a norm module as seen on `x` [row, ..., d], or None where it has none (an activation, for example)."""
    signs = torch.ones_like(x[:1])
    signs[..., 1::2] = -1.0
    bias = forward(torch.zeros_like(signs))
    normed = forward(x)
    if bias.shape != signs.shape or normed.shape != x.shape:
        return None
    for centred in (False, True):
        base = signs - signs.mean(-1, keepdim=True) if centred else signs
        form = NormForm((forward(signs) - bias) / base, bias, centred)
        again = form.direction(x) * form.scale(x, normed) + bias
        if bool((again - normed).norm() <= tolerance * normed.norm()):
            return form
    return None


def norm_rule(form: NormForm, stacked: Tensor, forward: Callable[[Tensor], Tensor], rule: Rule) -> Tensor:
    """Both parts divided by the scale of their sum (their own means taken away), the bias dealt out."""
    relevant, irrelevant = halves(stacked)
    whole = relevant + irrelevant
    normed = forward(whole)
    part = form.direction(relevant) * form.scale(whole, normed)
    return with_bias(part, normed - form.bias - part, form.bias, rule)


def attention_rule(call: AttentionCall, rule: Rule) -> Tensor:
    """Mixed values [2k, query_pos, head, d_head] of a split call.

    fixed     the pattern of the whole mixes both parts: what moves through values, the pattern as it was
    relevant  the relevant part is softmax(q_rel k_rel) v_rel, the irrelevant one the rest
    removal   the irrelevant part is attention as it would be without the relevant one, and the relevant part the rest
    """
    (q_rel, q_irr), (k_rel, k_irr), (v_rel, v_irr) = halves(call.q), halves(call.k), halves(call.v)
    pattern = _pattern(call, q_rel + q_irr, k_rel + k_irr)
    if rule == "fixed":
        return torch.cat([mix_values(pattern, v_rel), mix_values(pattern, v_irr)])
    whole = mix_values(pattern, v_rel + v_irr)
    if rule == "relevant":
        relevant = mix_values(_pattern(call, q_rel, k_rel), v_rel)
        return torch.cat([relevant, whole - relevant])
    irrelevant = mix_values(_pattern(call, q_irr, k_irr), v_irr)
    relevant = torch.where(_touched(call)[:, None, None, None], whole - irrelevant, 0.0)
    return torch.cat([relevant, whole - relevant])


def _pattern(call: AttentionCall, q: Tensor, k: Tensor) -> Tensor:
    mask = call.mask
    if mask is not None and mask.shape[0] == call.q.shape[0]:
        mask = mask[: len(q)]
    return form_pattern(AttentionCall(call.module, q, k, k, mask, call.kwargs))


def _touched(call: AttentionCall) -> Tensor:
    """Rows [k] whose relevant part is not exactly 0 everywhere."""
    return torch.stack([halves(t)[0].abs().amax((1, 2, 3)) > 0 for t in (call.q, call.k, call.v)]).any(0)


def outermost(root: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """Modules below `root` that are wanted and lie in no wanted one."""
    if wanted(root):
        return [root]
    return [m for child in root.children() for m in outermost(child, wanted)]
