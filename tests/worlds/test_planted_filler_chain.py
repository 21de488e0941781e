"""Filler chains: the hand-written world read with plain hooks, the task's texts, and the training of the small model."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.train import Schedule
from conceptlab.worlds.filler_chain import (
    FILLER,
    FIRST_NUMBER,
    HIDE,
    NO,
    SHOW,
    YES,
    FillerTask,
    chain_rows,
    filler_chain,
    guess_from_target,
    hidden_loss,
    training_batches,
)
from conceptlab.worlds.hidden_steps import EQUALS_AT, WRITERS, hidden_steps
from conceptlab.worlds.planted import PlantedWorld

from .plain_hooks import accuracy, all_heads, blocks, last_logits, out_hooks, patched_head, patterns, pre_hooks, tokens


@cache
def world(null: bool = False, seed: int = 0):
    return hidden_steps(seed=seed, null=null)


def writing(planted, family="hidden"):
    """Lens logits [layer (embed first), row, writing position, d_vocab]."""
    seen = []
    pairs = [(block, lambda x: seen.append(x)) for block in blocks(planted.model)]
    with pre_hooks(pairs[0]), out_hooks(*pairs), torch.no_grad():
        planted.model(**tokens(planted, planted.prompts[family]))
        return planted.model.lm_head(planted.model.transformer.ln_f(torch.stack(seen)))[:, :, list(WRITERS)]


def said(planted, family="hidden"):
    return writing(planted, family)[-1].argmax(-1)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("null", [False, True])
def test_both_families_are_answered_and_the_filler_is_written_where_it_stands(seed, null):
    planted = world(null, seed)
    assert accuracy(planted, "hidden") == planted.truth["accuracy"] == 1.0
    assert bool((said(planted) == planted.truth["filler"]).all())
    if not null:
        assert accuracy(planted, "shown") == 1.0
        assert torch.equal(said(planted, "shown"), torch.tensor(planted.truth["steps"]))


@pytest.mark.parametrize("seed", [0, 1])
def test_sums_come_first_until_the_filler_covers_them(seed):
    planted = world(seed=seed)
    steps = torch.tensor(planted.truth["steps"])
    for at, logits in enumerate(writing(planted)[1:]):
        covered = at == int(planted.truth["overwrite"])
        order = logits.argsort(-1, descending=True)
        assert bool((order[..., int(covered)] == steps).all())
        assert bool(((order[..., 0] == planted.truth["filler"]) == covered).all())


def test_the_null_twin_answers_alike_and_its_number_words_say_other_sums():
    planted = world(null=True)
    assert planted.truth["recovered"] == {} and planted.prompts == world().prompts
    assert torch.equal(
        last_logits(planted, planted.prompts["hidden"]).argmax(-1),
        last_logits(world(), planted.prompts["hidden"]).argmax(-1),
    )
    numbers = writing(planted)[1:, ..., FIRST_NUMBER:].argmax(-1) + FIRST_NUMBER
    assert float((numbers == torch.tensor(planted.truth["steps"])).float().mean()) < 0.4


def test_each_head_does_what_is_said_of_it_and_the_others_nothing():
    planted, steps = world(), torch.tensor(world().truth["steps"])
    right = last_logits(planted, planted.prompts["hidden"]).argmax(-1)
    for name, layer, head in all_heads(planted.model):
        with patched_head(planted.model, layer, head, 0.0):
            answers, covered = last_logits(planted, planted.prompts["hidden"]).argmax(-1), said(planted)
            sums = (writing(planted)[1].argmax(-1) == steps).float().mean()
        role = planted.truth["heads"].get(name, {"role": ""})["role"]
        assert (float(sums) < 0.5) == role.endswith("operand")
        assert bool((covered == planted.truth["filler"]).any()) == (role != "mode")
        assert torch.equal(answers, right) == (role not in ("left operand", "right operand", "target", "judge"))


def test_operands_are_looked_up_where_they_stand():
    found = patterns(world(), world().prompts["hidden"])
    for i in WRITERS:
        assert float(found[0, :, 0, i, i - 5].min()) > 0.99 and float(found[0, :, 1, i, i - 4].min()) > 0.99
    assert float(found[0, :, 3, EQUALS_AT, 2].min()) > 0.99


def test_the_world_is_saved_and_loads(tmp_path):
    world().save(tmp_path)
    again = PlantedWorld.load(tmp_path)
    assert again.truth == world().truth and again.prompts == world().prompts
    for one, two in zip(again.model.parameters(), world().model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("hidden", [False, True])
def test_texts_of_the_task_are_right(hidden):
    task = FillerTask()
    rows = chain_rows(task, 400, np.random.default_rng(3), hidden=hidden)
    x = rows.ids[:, 3 : 3 + task.n_numbers] - FIRST_NUMBER
    assert np.array_equal(rows.steps - FIRST_NUMBER, x[:, 1:] + x[:, :-1]) and x.max() == task.base - 1
    there = (rows.steps == rows.ids[:, 2:3]).any(1)
    assert np.array_equal(rows.answers, np.where(there, YES, NO)) and 0.4 < there.mean() < 0.6
    chain = rows.ids[:, task.first_step : task.first_step + task.n_steps]
    assert np.array_equal(chain, np.full_like(chain, FILLER) if hidden else rows.steps)
    assert (rows.ids[:, 1] == (HIDE if hidden else SHOW)).all() and (rows.ids[:, -1] == rows.answers).all()
    assert rows.prompts().ids[0] == tuple(rows.ids[0, :-1].tolist())


def test_held_out_tuples_are_never_trained_on_and_the_target_tells_little():
    task = FillerTask()
    train, test = (
        chain_rows(task, 2000, np.random.default_rng(4), hidden=True, held_out=held_out) for held_out in (False, True)
    )
    tuples = [{tuple(ids) for ids in rows.ids[:, 3 : 3 + task.n_numbers].tolist()} for rows in (train, test)]
    assert not tuples[0] & tuples[1] and len(tuples[1]) > 250
    assert 0.5 <= guess_from_target(test) < 0.8


def test_twins_see_no_true_chain():
    task = FillerTask()
    at = slice(task.first_step, task.first_step + task.n_steps)
    for chains, right in (("shown", 1.0), ("shuffled", 0.5)):
        ids = next(training_batches(task, chains, np.random.default_rng(0))).ids.numpy()
        shown = ids[ids[:, 1] == SHOW]
        x = shown[:, 3 : 3 + task.n_numbers] - FIRST_NUMBER
        share = (shown[:, at] - FIRST_NUMBER == x[:, 1:] + x[:, :-1]).mean()
        assert share == right if right == 1.0 else share < right
        assert 0.2 < len(shown) / len(ids) < 0.8
    assert (next(training_batches(task, "none", np.random.default_rng(0))).ids[:, at] == FILLER).all()


def test_training_is_seeded_and_kept(tmp_path):
    task, schedule = FillerTask(n_layers=1, d_model=16), Schedule(steps=15, learning_rate=5e-3, warmup=5)
    first, second, other = (
        filler_chain(task, seed=seed, schedule=schedule, cache=folder)
        for seed, folder in ((0, tmp_path / "a"), (0, tmp_path / "b"), (1, tmp_path / "a"))
    )
    assert first.steps == 15 and not second.from_cache
    assert filler_chain(task, seed=0, schedule=schedule, cache=tmp_path / "a").from_cache
    weights = [torch.cat([p.flatten() for p in made.model.parameters()]) for made in (first, second, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_the_loss_that_says_whether_a_model_learnt_reads_fillers_and_answers_of_hidden_chains():
    task, n_vocab = FillerTask(), FIRST_NUMBER + FillerTask().n_sums
    rows = chain_rows(task, 64, np.random.default_rng(2), hidden=True)

    class Knows(torch.nn.Module):
        """Says with `sure` logits what comes next, or another word at the answer."""

        def __init__(self, sure, wrong=False):
            super().__init__()
            self.sure, self.wrong = torch.nn.Parameter(torch.tensor(float(sure))), wrong

        def forward(self, input_ids, use_cache):
            assert not use_cache and torch.equal(input_ids, torch.from_numpy(rows.ids[:, :-1]))
            told = torch.from_numpy(rows.ids[:, 1:]).clone()
            told[:, -1] = YES + NO - told[:, -1] if self.wrong else told[:, -1]
            return type("Out", (), {"logits": self.sure * torch.nn.functional.one_hot(told, n_vocab).float()})

    assert hidden_loss(Knows(0), task, n=64, seed=2) == pytest.approx(np.log(n_vocab), rel=1e-5)
    assert hidden_loss(Knows(50), task, n=64, seed=2) < 1e-6
    # one of the predicted tokens (fillers, equals sign, answer) is wrong by 50 nats
    assert hidden_loss(Knows(50, wrong=True), task, n=64, seed=2) == pytest.approx(50 / (task.n_steps + 2), rel=1e-5)
