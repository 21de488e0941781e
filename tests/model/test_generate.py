"""Generation under edits: the same text with the KV cache on and off, batched and alone, and back to normal afterwards."""

import pytest
import torch

from conceptlab.errors import ModelError
from conceptlab.results import Edit
from tests.model.tiny import TEXTS, decoder, other

EDITS = [
    lambda d: Edit("L1.resid_post", "add", 3 * torch.randn(d, generator=torch.Generator().manual_seed(1))),
    lambda d: Edit("L0.H1.z", "zero"),
    lambda d: Edit(
        "L0.resid_post", "add", 5 * torch.randn(d, generator=torch.Generator().manual_seed(2)), positions="last"
    ),
    lambda d: Edit("L1.mlp_out", "scale", strength=3.0, positions=(0, 2)),
    lambda d: Edit("L1.H0.v", "scale", strength=-2.0),
]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "gemma3_text", "mixtral", "bloom", "mamba", "opt"])
@pytest.mark.parametrize("edit", EDITS)
def test_steered_text_is_the_same_with_and_without_cache_and_alone(kind: str, edit) -> None:
    model = decoder(kind)
    made = edit(model.d_model)
    if made.site.name not in model.stack.blocks[made.site.layer].taps:
        pytest.skip(f"{kind} has no {made.site}")
    plain = model.generate(TEXTS, max_new_tokens=6)
    with model.edited(made):
        cached = model.generate(TEXTS, max_new_tokens=6)
        uncached = model.generate(TEXTS, max_new_tokens=6, use_cache=False)
        alone = [model.generate(t, max_new_tokens=6)[0] for t in TEXTS]
    assert cached == uncached == alone
    assert model.generate(TEXTS, max_new_tokens=6) == plain


def test_strength_zero_is_the_plain_model() -> None:
    model = decoder("llama")
    with model.edited(Edit("L1.resid_post", "add", torch.randn(model.d_model), strength=0.0)):
        assert model.generate(TEXTS, max_new_tokens=5) == steered_off(model)


def steered_off(model) -> list[str]:
    with model.edited():
        return model.generate(TEXTS, max_new_tokens=5)


def test_what_cannot_generate_says_so() -> None:
    with pytest.raises(ModelError, match="does not generate"):
        other("bert").generate(TEXTS)
    with pytest.raises(ModelError, match="exceed the context"):
        decoder("gpt2").generate(TEXTS, max_new_tokens=10**6)
