"""Sums with carries: pairs are right, held out and aligned, and a checkpoint continues from the base of its seed."""

import numpy as np
import torch

from conceptlab.worlds import trained_carry as world


def tens(text):
    a1, a0, _, b1, b0, _ = text.split()
    return (10 * int(a1) + int(a0) + 10 * int(b1) + int(b0)) // 10, int(a0) + int(b0) >= 10


def test_pairs_are_right_and_never_trained_on():
    for task in ("carry", "plain"):
        pairs = world.carry_pairs(task, 60, seed=3)
        for clean, corrupted, answer, distractor in zip(
            pairs.clean, pairs.corrupted, pairs.answer, pairs.distractor, strict=True
        ):
            assert tens(clean) == (int(answer), task == "carry") and tens(corrupted) == (int(distractor), False)
            digits = [int(x) for x in clean.split() if x.isdigit()]
            assert world.held_out(digits[:2], digits[2:])
    first = next(world._batches(np.random.default_rng(0), carrying=0.5))
    rows = first.ids[:, [1, 2, 4, 5]].numpy() - 3
    assert not world.held_out(rows[:, :2], rows[:, 2:]).any()
    carried = rows[:, 1] + rows[:, 3] >= 10
    assert carried.mean() == 0.5 and (first.ids[:, -1].numpy() - 3 == rows[:, 0] + rows[:, 2] + carried).all()


def test_a_checkpoint_continues_from_the_base(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "BASE_STEPS", 2)
    base = world.trained_carry(0, seed=5, cache=tmp_path)
    later = world.trained_carry(1, seed=5, cache=tmp_path)
    again = world.trained_carry(1, seed=5, cache=tmp_path)
    assert again.from_cache and later.steps == 1
    a, b = (dict(m.model.named_parameters()) for m in (base, later))
    moved = max(float((a[name] - b[name]).abs().max()) for name in a)
    assert 0 < moved < 0.1
    assert torch.equal(later.model.lm_head.weight, again.model.lm_head.weight)
