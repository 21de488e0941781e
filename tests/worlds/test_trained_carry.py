"""Sums with carries: pairs are right, held out and aligned, and a checkpoint continues from the base of its seed."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
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
    a, b = (m.model.state_dict() for m in (base, later))
    moved = max(float((a[name] - b[name]).abs().max()) for name in a)
    assert 0 < moved < 0.1
    assert torch.equal(later.model.lm_head.weight, again.model.lm_head.weight)


def test_reward_makes_the_rewarded_answer_likelier_and_is_kept_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "BASE_STEPS", 2)
    supervised, rewarded = (world.trained_carry(2, by=by, seed=5, cache=tmp_path).model for by in ("sft", "reinforce"))
    assert not torch.equal(supervised.lm_head.weight, rewarded.lm_head.weight)
    again = world.trained_carry(2, by="reinforce", seed=5, cache=tmp_path)
    assert again.from_cache and torch.equal(again.model.lm_head.weight, rewarded.lm_head.weight)
    with pytest.raises(InputError, match="'ppo' is no way of post-training"):
        world.trained_carry(2, by="ppo", seed=5, cache=tmp_path)  # type: ignore[arg-type]


def test_the_gradient_of_the_reward_is_that_of_its_expectation():
    """Over many draws the estimate points along the gradient of the mean probability of the right answer."""
    model = world._fresh(1)
    batch = next(world._batches(np.random.default_rng(2), carrying=0.5))
    model.zero_grad()
    logits = model(input_ids=batch.ids[:, :-1]).logits[:, -1]
    (-logits.softmax(-1).gather(1, batch.ids[:, -1:]).mean()).backward()
    exact = model.lm_head.weight.grad.clone()
    model.zero_grad()
    loss = world.reward_loss(torch.Generator().manual_seed(0))
    for _ in range(60):
        loss(model, batch, torch.device("cpu")).backward()
    found = model.lm_head.weight.grad / 60
    assert float(torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)) > 0.8
    assert 0.7 < float(found.norm() / exact.norm()) < 1.4
