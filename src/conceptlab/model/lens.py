"""The lens: what the stream would say if the model ended here, with the model's own norm, unembedding, scale and soft cap."""

import torch
from torch import Tensor

from conceptlab.errors import SiteError
from conceptlab.model.anatomy import Stack


def lens_logits(stack: Stack, name: str, stream: Tensor) -> Tensor:
    """Logits [..., d_vocab] of `stream` [..., d_model] (nostalgebraist, logit lens). Raises SiteError where it does not exist."""
    for part in ("logits", "lens"):
        if part in stack.missing:
            raise SiteError(f"{name} has no lens: {stack.missing[part]}")
    if stack.unembed is None:
        raise SiteError(f"{name} has no lens: no unembedding was found")
    normed = stack.final_norm.module(stream) if stack.final_norm is not None else stream
    logits = stack.unembed(normed)
    if stack.logit_scale < 1.0:  # models that shrink their logits divide, and a division rounds differently
        logits = logits / (1.0 / stack.logit_scale)
    elif stack.logit_scale > 1.0:
        logits = logits * stack.logit_scale
    return logits if stack.softcap is None else stack.softcap * torch.tanh(logits / stack.softcap)
