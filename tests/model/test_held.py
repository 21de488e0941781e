"""Tensors that are kept without a copy: the same values as copies, and no later write goes unnoticed."""

import pytest
import torch
from torch import Tensor, nn

from conceptlab.errors import SiteError
from conceptlab.model import load_model
from conceptlab.model.batch import Batch
from conceptlab.model.held import Held
from tests.conformance.tiny_models import tiny_model

SITES = ("embed", "resid_pre", "resid_post", "attn_out", "q", "k", "v", "z", "pattern", "mlp_post", "logits")
EVEN, RAGGED = Batch(((5, 6, 7, 8), (9, 3, 2, 4))), Batch(((5, 6, 7, 8), (9, 3, 2, 4), (1, 2)))


class AddsInPlace(nn.Module):
    """A block that writes into the stream it was given, and into what its attention returned."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> Tensor:
        kwargs = {k: kwargs.get(k) for k in ("attention_mask", "position_ids", "use_cache")}
        stream = hidden_states
        stream += self.attn(self.ln_1(stream), **kwargs)[0]
        stream += self.mlp(self.ln_2(stream))
        return stream


def test_what_is_kept_equals_what_is_copied() -> None:
    model = load_model(tiny_model("gpt2"))
    kept, copied = (model.capture(batch, SITES, positions="all") for batch in (EVEN, RAGGED))
    rows = torch.from_numpy(copied.row < 2)
    assert isinstance(kept.values["z"], Held)
    assert isinstance(copied.values["z"], Tensor)
    for site in SITES:
        assert torch.allclose(kept[site], copied[site][rows], atol=1e-5), site
        assert kept[site].shape == copied[site][rows].shape
    assert isinstance(kept.values["z"], Tensor)


def test_a_block_that_adds_in_place_is_noticed_and_copied() -> None:
    plain = load_model(tiny_model("gpt2"))
    module = tiny_model("gpt2")
    model = load_model(module)
    expected = plain.capture(EVEN, ("resid_pre", "resid_post"), positions="all")
    with pytest.MonkeyPatch.context() as patch:
        for block in module.transformer.h:
            changed = AddsInPlace(block)
            patch.setattr(block, "forward", changed.forward)
        before = model.forwards
        found = model.capture(EVEN, ("resid_pre", "resid_post"), positions="all")
        assert model.instrument.overwritten
        assert model.forwards - before == 4  # the two rows ran again, once
        model.capture(EVEN, ("resid_pre", "resid_post"), positions="all")
        assert model.forwards - before == 6
    for site in ("resid_pre", "resid_post"):
        assert torch.allclose(found[site], expected[site], atol=1e-6), site


def test_a_write_after_the_capture_is_an_error_and_not_a_wrong_value() -> None:
    acts = load_model(tiny_model("gpt2")).capture(EVEN, "resid_post", positions="all")
    held = acts.values["resid_post"]
    assert isinstance(held, Held)
    held.parts[0].add_(1.0)  # type: ignore[union-attr]
    with pytest.raises(SiteError, match="resid_post was written to"):
        acts["resid_post"]
