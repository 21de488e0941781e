"""The lens: what the stream would say if the model ended here, with the model's own norm, unembedding, scale and soft cap."""

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.anatomy import Stack


def lens_logits(stack: Stack, name: str, stream: Tensor, out: Tensor | None = None) -> Tensor:
    """Logits [..., d_vocab] of `stream` [..., d_model] (nostalgebraist, logit lens). Raises SiteError where it does not exist.

    `out` [row, d_vocab] is memory that the product may fill, where rows [row, d_model] meet a plain matrix of its precision.
    """
    for part in ("logits", "lens"):
        if part in stack.missing:
            raise SiteError(f"{name} has no lens: {stack.missing[part]}")
    if stack.unembed is None:
        raise SiteError(f"{name} has no lens: no unembedding was found")
    normed = stack.final_norm.module(stream) if stack.final_norm is not None else stream
    if out is not None and _is_plain(stack.unembed) and normed.dtype == out.dtype == stack.unembed.weight.dtype:
        return _finished(stack, _product_into(out, normed, stack.unembed.weight, stack.unembed.bias))  # type: ignore[arg-type]
    return _finished(stack, stack.unembed(normed))


def _product_into(out: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`torch.nn.functional.linear` into memory that is already there: new memory for a block costs a tenth of the product."""
    into = out[: len(rows)]
    return torch.mm(rows, weight.T, out=into) if bias is None else torch.addmm(bias, rows, weight.T, out=into)


def token_logits(stack: Stack, stream: Tensor, tokens: Tensor) -> Tensor:
    """The logits [row, k] of `tokens` [row, k] alone, in float32, for streams [row, d_model]: k dot products a row.

    Falls back to the whole unembedding where its weight is no plain matrix (quantised or wrapped).
    """
    normed = stack.final_norm.module(stream) if stack.final_norm is not None else stream
    weight, bias = getattr(stack.unembed, "weight", None), getattr(stack.unembed, "bias", None)
    if not _is_plain(stack.unembed):
        return _finished(stack, stack.unembed(normed)).float().gather(-1, tokens)  # type: ignore[misc]
    picked = torch.einsum("nd,nkd->nk", normed.float(), weight[tokens].float())  # type: ignore[index]
    return _finished(stack, picked if bias is None else picked + bias[tokens].float())


def _is_plain(unembed: torch.nn.Module | None) -> bool:
    """Whether an unembedding is nothing but a matrix: not quantised, wrapped, hooked or with a forward of its own."""
    if type(unembed) is not torch.nn.Linear or type(unembed.weight) is not torch.nn.Parameter:
        return False
    hooked = unembed._forward_hooks or unembed._forward_pre_hooks or "forward" in vars(unembed)
    return unembed.weight.is_floating_point() and not hooked


def _finished(stack: Stack, logits: Tensor) -> Tensor:
    """The model's own scale and soft cap on the unembedding's output."""
    if stack.logit_scale < 1.0:  # models that shrink their logits divide, and a division rounds differently
        logits = logits / (1.0 / stack.logit_scale)
    elif stack.logit_scale > 1.0:
        logits = logits * stack.logit_scale
    return logits if stack.softcap is None else stack.softcap * torch.tanh(logits / stack.softcap)
