"""Tiny models with nothing left at its default: norms with gains and biases, weights large enough to be far from linear."""

import copy
from functools import cache

import torch

from conceptlab.model import Batch, Model, load_model
from conceptlab.model.metric import Metric, logit_diff

from .tiny import decoder, tokenizer

KINDS = ("gpt2", "llama", "qwen3", "gpt_neox", "gemma2", "olmo2", "mixtral", "phi")
CLEAN = Batch(((12, 25, 33, 47, 51), (13, 27, 61, 44, 20)))
CORRUPTED = Batch(((12, 40, 33, 47, 51), (13, 27, 61, 30, 20)))


@cache
def rough(kind: str) -> Model:
    """A frozen copy of a tiny model with random gains and biases."""
    module = copy.deepcopy(decoder(kind).module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
            else:
                parameter *= 2
    return load_model(module.requires_grad_(False), tokenizer=tokenizer())


def difference() -> Metric:
    """Two logits for each of two rows."""
    return logit_diff([20, 30], [40, 50])
