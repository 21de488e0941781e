"""The causal gallery: pairs are what they say, and the page says what a model cannot do and where a circuit is none."""

import json

import pytest

from benchmarks.gallery_causal_data import MOST, TASKS, chosen_pairs
from benchmarks.gallery_causal_page import circuit_words, page, percent
from benchmarks.gallery_data import SHARED
from conceptlab.model import load_model


def test_a_share_is_never_minus_nothing():
    assert [percent(v) for v in (-0.001, 0.724, 1.0)] == ["0%", "72%", "100%"]


def test_the_page_says_what_a_model_cannot_do(tmp_path):
    (tmp_path / "stories260k").mkdir()
    (tmp_path / "stories260k" / "numbers.json").write_text(json.dumps({"cannot": "it gets no pair right"}))
    text = page(tmp_path)
    assert text.count("it gets no pair right") == 2 and "![" not in text and "nano-sort" not in text


def test_a_circuit_without_a_whole_path_is_called_so():
    found = {
        "edges": 2,
        "of": 100,
        "held_out_pairs": 16,
        "whole_paths": 0,
        "sure": 1,
        "notes": ["few edges were patched"],
    }
    found |= dict.fromkeys(("score", "low", "high", "control", "control_low", "control_high"), 0.0)
    assert "no whole path" in circuit_words(found) and "Note: few edges" in circuit_words(found)
    assert "no whole path" not in circuit_words(found | {"whole_paths": 2})
    assert circuit_words(found | {"edges": 0}).startswith("Circuit: no edge was found.")


@pytest.mark.skipif(not (SHARED / "models" / "nano-sort-gpt2").is_dir(), reason="the small real models are not here")
def test_pairs_are_right_on_both_sides_and_differ_in_one_place():
    model = load_model(SHARED / "models" / "nano-sort-gpt2")
    pairs = chosen_pairs(model, TASKS["nano-sort-gpt2"])
    assert len(pairs.clean) == MOST <= pairs.right <= pairs.tried
    clean, corrupted = (model.encode(texts).ids for texts in (pairs.clean, pairs.corrupted))
    assert all(sum(a != b for a, b in zip(x, y, strict=True)) == 1 for x, y in zip(clean, corrupted, strict=True))
    ours, theirs = model.logits(pairs.clean), model.logits(pairs.corrupted)
    for row, (a, b) in enumerate(zip(pairs.answers, pairs.distractors, strict=True)):
        assert ours[row, a] > ours[row, b] and theirs[row, a] < theirs[row, b]
