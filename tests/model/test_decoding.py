"""Decoding that keeps favourite keys: the tokens of plain generation, and the keys of the patterns of the whole text."""

import pytest
import torch

from conceptlab.errors import ModelError, SiteError
from conceptlab.model import Batch
from conceptlab.model.decoding import greedy_decode
from conceptlab.results import Edit
from tests.model.tiny import TEXTS, decoder, other

STEPS = 6


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "gemma3_text", "mixtral", "gpt_oss"])
def test_tokens_and_keys_are_those_of_the_whole_text(kind: str) -> None:
    model = decoder(kind)
    batch = model.encode([*TEXTS, TEXTS[1]])  # one row alone, two of one length
    found = greedy_decode(model, batch, STEPS, top_keys=True)
    assert found.keys is not None and found.keys.shape == (4, STEPS, model.n_layers, model.n_heads)
    texts = [model.tokenizer.decode(row[row >= 0], skip_special_tokens=True) for row in found.ids]
    assert texts == model.generate(batch, max_new_tokens=STEPS)
    for row, ids in enumerate(batch.ids):
        whole = Batch(((*ids, *found.ids[row].tolist()),))
        at = list(range(len(ids) - 1, len(ids) + STEPS - 1))
        pattern = model.capture(whole, "pattern", positions=at)["pattern"]  # [step, layer, head, key]
        seen = list(model.layers_with("pattern"))
        assert torch.equal(found.keys[row][:, seen], pattern.argmax(-1).int())


def test_attention_that_cannot_be_seen_is_one_line() -> None:
    model = decoder("bloom")
    with pytest.raises(SiteError, match="bypasses transformers' attention interface"):
        greedy_decode(model, model.encode(TEXTS), STEPS, top_keys=True)
    texts = [
        model.tokenizer.decode(row, skip_special_tokens=True)
        for row in greedy_decode(model, model.encode(TEXTS), 3).ids
    ]
    assert texts == model.generate(TEXTS, max_new_tokens=3)


def test_edits_act_and_nothing_stays() -> None:
    model = decoder("llama")
    plain = greedy_decode(model, model.encode(TEXTS), STEPS).ids
    with model.edited(Edit("L0.resid_post", "add", 5 * torch.randn(model.d_model))):
        changed = greedy_decode(model, model.encode(TEXTS), STEPS, top_keys=True).ids
        assert model.generate(TEXTS, max_new_tokens=STEPS) == [
            model.tokenizer.decode(row, skip_special_tokens=True) for row in changed
        ]
    assert not torch.equal(plain, changed)
    assert torch.equal(greedy_decode(model, model.encode(TEXTS), STEPS, top_keys=True).ids, plain)


def test_a_row_ends_at_its_end() -> None:
    model = decoder("llama")
    plain = greedy_decode(model, model.encode(TEXTS), STEPS).ids
    settings = model.module.generation_config
    before, settings.eos_token_id = settings.eos_token_id, int(plain[0, 1])
    try:
        ended = greedy_decode(model, model.encode(TEXTS), STEPS).ids
    finally:
        settings.eos_token_id = before
    assert torch.equal(ended[0, :2], plain[0, :2]) and bool((ended[0, 2:] == -1).all())


def test_what_cannot_decode_is_one_line() -> None:
    with pytest.raises(ModelError, match="exceed the context"):
        greedy_decode(decoder("llama"), decoder("llama").encode(TEXTS), 10**6)
    with pytest.raises(ModelError, match="does not decode"):
        greedy_decode(other("bert"), Batch(((11, 12),)), 2)
