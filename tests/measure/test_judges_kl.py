"""The divergence that effects are read by: the definition, also where exponentials would overflow."""

import pytest
import torch

from conceptlab.measure.effects.judges import kl_from_clean


@pytest.mark.parametrize("size", [1e-3, 1.0, 60.0])
def test_divergence_is_the_definition(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = 4 * torch.randn(5, 300, generator=generator)
    logits = clean + size * torch.randn(7, 5, 300, generator=generator) + 3.0
    exact_p, exact_q = clean.double().log_softmax(-1), logits.double().log_softmax(-1)
    expected = (exact_p.exp() * (exact_p - exact_q)).sum(-1)
    found = kl_from_clean(clean, logits.clone())
    assert torch.allclose(found.double(), expected, rtol=2e-3, atol=5e-6)


def test_no_change_is_no_divergence() -> None:
    clean = torch.randn(5, 300, generator=torch.Generator().manual_seed(0))
    assert kl_from_clean(clean, clean.expand(2, 5, 300).clone()).abs().max() < 1e-7
