"""TextSpan: planted texts come back in the order of their spread, and what varies along nothing has no text."""

import pytest
import torch

from conceptlab.numerics.text_span import text_span


def unit_texts(n, d, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, generator=rng, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("seed", range(3))
def test_planted_texts_are_recovered_in_order(seed):
    texts = unit_texts(50, 64, seed)
    spread = torch.tensor([3.0, 2.4, 2.0, 1.6, 1.3], dtype=torch.float64)
    rng = torch.Generator().manual_seed(seed + 10)
    vectors = 5 + torch.randn(500, 5, generator=rng, dtype=torch.float64) * spread @ texts[7:12]
    found = text_span(vectors, texts)
    assert set(found.texts.tolist()) == {7, 8, 9, 10, 11} and found.texts[0] == 7
    assert found.explained.sum() == pytest.approx(1.0, abs=1e-6) and (found.explained > 0.02).all()


def test_steps_are_orthogonal_and_texts_differ():
    vectors, texts = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)), unit_texts(30, 12)
    found = text_span(vectors, texts, 12)
    assert len(set(found.texts.tolist())) == 12
    assert found.explained.sum() == pytest.approx(1.0, abs=1e-6)  # twelve directions of twelve


def test_what_does_not_vary_has_no_text():
    found = text_span(torch.ones(9, 6), unit_texts(8, 6), 3)
    assert found.texts.tolist() == [-1] * 3 and found.explained.tolist() == [0.0] * 3
    line = torch.arange(9.0)[:, None] * torch.eye(6)[:1]
    assert text_span(line, torch.eye(6), 2).texts.tolist() == [0, -1]
