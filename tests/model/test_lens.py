"""The lens into memory that is already there: the same logits as without, wherever the unembedding is a plain matrix or not."""

import pytest
import torch
from torch import nn

from tests.model.tiny import decoder

KINDS = ("gpt2", "gemma2", "cohere", "granite")  # plain, soft-capped, scaled by a product, scaled by a division


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_given_memory_changes_nothing(kind: str) -> None:
    model = decoder(kind)
    stream = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(0))
    space = torch.full((7, model.unembedding.shape[0]), torch.nan)
    torch.testing.assert_close(model.lens(stream, out=space), model.lens(stream), rtol=1e-5, atol=1e-6)
    assert space[:5].isfinite().all()  # it was used
    assert space[5:].isnan().all()


@torch.no_grad()
def test_an_unembedding_with_a_bias() -> None:
    model = decoder("phi")
    nn.init.normal_(model.stack.unembed.bias)
    stream = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))
    space = torch.empty(3, model.unembedding.shape[0])
    torch.testing.assert_close(model.lens(stream, out=space), model.lens(stream), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_memory_of_another_precision_is_left_alone() -> None:
    model = decoder("gpt2")
    stream = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))
    space = torch.zeros(3, model.unembedding.shape[0], dtype=torch.float64)
    assert torch.equal(model.lens(stream, out=space), model.lens(stream))
    assert not space.any()


@torch.no_grad()
def test_an_unembedding_that_does_more_is_called() -> None:
    model = decoder("gpt2")
    stream = torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))
    space, before = torch.zeros(3, model.unembedding.shape[0]), model.lens(stream)
    with model.stack.unembed.register_forward_hook(lambda module, given, found: found + 1):
        torch.testing.assert_close(model.lens(stream, out=space), before + 1)
        assert not space.any()
    torch.testing.assert_close(model.lens(stream, out=space), before)
    assert space.all()
