"""The one-to-many world, read with plain torch hooks: it lists three answers; the planted head keeps it from repeating one."""

from functools import cache

import pytest
import torch

from conceptlab.worlds.one_to_many import ANSWERS, OBJECTS, one_to_many
from conceptlab.worlds.planted import PlantedWorld

from .plain_hooks import accuracy, last_logits, patched_head

STEPS = ("step1", "step2", "step3")


@cache
def world(null: bool = False, seed: int = 0):
    return one_to_many(seed=seed, null=null)


def repeats(planted, step, own_order=True):
    """Share of rows whose next word was said before; with `own_order` only where the answers stand in the model's order."""
    vocabulary, logits = planted.tokenizer.get_vocab(), last_logits(planted, planted.prompts[step])
    said = planted.truth["said"][step]
    rows = [i for i, s in enumerate(said) if not own_order or list(s) == planted.truth["rows"][i]["answers"][: len(s)]]
    chosen = logits.argmax(-1)
    return sum(int(chosen[i]) in {vocabulary[word] for word in said[i]} for i in rows) / len(rows)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_answered_with_the_next_answer(step, seed):
    planted = world(seed=seed)
    assert accuracy(planted, step) == planted.truth["accuracy"] == 1.0
    assert step == "step1" or repeats(planted, step, own_order=False) == planted.truth["repeats"]["clean"] == 0.0


def test_all_three_answers_are_promoted_alike_and_the_said_ones_fall():
    planted = world()
    vocabulary = planted.tokenizer.get_vocab()
    for step in STEPS:
        logits = last_logits(planted, planted.prompts[step])
        for row, (said, question) in enumerate(zip(planted.truth["said"][step], planted.truth["rows"], strict=True)):
            left = [float(logits[row, vocabulary[a]]) for a in question["answers"] if a not in said]
            gone = [float(logits[row, vocabulary[a]]) for a in said]
            others = [float(logits[row, vocabulary[a]]) for a in OBJECTS if a not in question["answers"]]
            assert min(left) > 5 and max(left) - min(left) < 3
            assert max(gone, default=-9) < -2 and max(map(abs, others)) < 1


@pytest.mark.parametrize("step", ["step2", "step3"])
def test_without_the_planted_head_answers_come_again_and_without_its_decoy_they_do_not(step):
    planted = world()
    with patched_head(planted.model, 1, 1, 0.0):
        assert repeats(planted, step) == planted.truth["repeats"]["knocked_out"] == 1.0
    with patched_head(planted.model, 1, 2, 0.0):
        assert repeats(planted, step) == 0.0
    with patched_head(planted.model, 1, 0, 0.0):
        assert accuracy(planted, step) < 0.2


def test_the_null_twin_knows_nothing():
    twin = world(null=True)
    assert twin.truth["heads"] == {} and twin.prompts == world().prompts
    assert all(accuracy(twin, step) < 0.2 for step in STEPS)


def test_prompts_of_a_step_have_one_length_and_the_world_loads(tmp_path):
    planted = world()
    for step in STEPS:
        assert len({len(ids) for ids in planted.tokenizer(list(planted.prompts[step]))["input_ids"]}) == 1
    planted.save(tmp_path)
    again = PlantedWorld.load(tmp_path)
    assert again.truth == planted.truth and again.prompts == planted.prompts
    for one, two in zip(again.model.parameters(), planted.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert set(OBJECTS) == {answer for answers in ANSWERS.values() for answer in answers}
