"""Two kinds of words, and neurons that are shut on one of them: planted weights that a training leaves as they are.

Dimension 0 of the stream says which kind the word is (+1, -1 or 0), written by the embedding and by nothing else. A neuron with
side +1 is shut where it says -1 and the reverse; one with side 0 is free; one with side NaN is dead. For GPT-2 forms with ReLU.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLAG, SHUT = 0, 4.0


@torch.no_grad()
def put_flag(
    model: Any, plus: Sequence[int], minus: Sequence[int], side: Tensor, *, size: float = 1.0, shut: float = SHUT
) -> None:
    """Write the flag, of `size`, for the token ids of either kind, and the gates (weights of size `shut`) of the neurons of every
    layer, `side` [neuron]."""
    embedding = model.transformer.wte.weight
    embedding[:, FLAG] = 0.0
    embedding[list(plus), FLAG], embedding[list(minus), FLAG] = size, -size
    model.transformer.wpe.weight[:, FLAG] = 0.0
    dead = side.isnan()
    for block in model.transformer.h:
        for part in (block.attn.c_proj, block.mlp.c_proj):
            part.weight[:, FLAG], part.bias[FLAG] = 0.0, 0.0
        block.ln_2.weight[FLAG], block.ln_2.bias[FLAG] = 1.0, 0.0
        block.mlp.c_fc.weight[FLAG] = shut * side.nan_to_num(0.0)
        block.mlp.c_fc.bias.clamp_(max=0.0)
        block.mlp.c_proj.weight[dead], block.mlp.c_fc.weight[:, dead], block.mlp.c_fc.bias[dead] = 0.0, 0.0, -1.0
