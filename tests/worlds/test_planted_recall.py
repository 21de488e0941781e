"""The world of recall and reasoning: its stated truths, measured with plain hooks."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.worlds.recall_and_hops import N, recall_and_hops
from conceptlab.worlds.recall_puzzles import make_puzzles, pairs_of

from .plain_hooks import accuracy, all_heads, last_logits, out_projection, pre_hooks, record

TASKS = ("recall", "reasoning")


@cache
def world(seed=5, null=False):
    return recall_and_hops(n_prompts=48, seed=seed, null=null)


def difference(planted, task, family):
    """logit of the answer to the clean prompt minus that of the corrupted one's [row]."""
    logits, rows = last_logits(planted, planted.prompts[family]), torch.arange(48)
    return logits[rows, planted.answer_ids(task)] - logits[rows, planted.answer_ids(f"{task}_corrupted")]


def restored(planted, task, layer, head):
    """Share of the answer that the clean output of one head at the last word brings back into the corrupted prompt."""
    clean, corrupted, module = planted.prompts[task], f"{task}_corrupted", out_projection(planted.model, layer)
    (kept,), here = record(planted, clean, [module]), slice(32 * head, 32 * head + 32)

    def put_back(x):
        x = x.clone()
        x[:, -1, here] = kept[:, -1, here]
        return x

    low, high = difference(planted, task, corrupted), difference(planted, task, task)
    with pre_hooks((module, put_back)):
        found = difference(planted, task, corrupted)
    return float((found - low).mean() / (high - low).mean())


@pytest.mark.parametrize("seed", [5, 6, 7])
@pytest.mark.parametrize("null", [False, True])
def test_every_prompt_is_answered_and_all_are_of_one_form(seed, null):
    planted = world(seed, null)
    assert all(accuracy(planted, family) == 1.0 for family in planted.prompts)
    assert {len(text.split()) for texts in planted.prompts.values() for text in texts} == {14}
    for a, b in zip(*(planted.prompts[task] for task in TASKS), strict=True):
        assert [(x, y) for x, y in zip(a.split(), b.split(), strict=True) if x != y] == [("know", "find")]


def test_each_head_restores_what_is_stated_in_either_task():
    planted = world()
    for name, layer, head in all_heads(planted.model):
        stated = planted.truth["effects"].get(name, dict.fromkeys(TASKS, 0.0))
        for task in TASKS:
            assert restored(planted, task, layer, head) == pytest.approx(stated[task], abs=0.02), (name, task)


def test_neurons_fire_for_their_own_task_and_decoys_do_so_too():
    planted = world()
    modules = [planted.model.transformer.h[layer].mlp.c_proj for layer in (1, 2)]
    fired = {task: [x[:, -1] > 0.5 for x in record(planted, planted.prompts[task], modules)] for task in TASKS}
    facts, answers = slice(0, N), slice(0, N)
    assert bool((fired["recall"][0][:, facts].sum(1) == 1).all()) and not fired["reasoning"][0][:, facts].any()
    assert bool((fired["reasoning"][1][:, answers].sum(1) == 1).all()) and not fired["recall"][1][:, answers].any()
    for name in planted.truth["decoys"]["neurons"]:
        layer, at = int(name[1]), int(name.split("N")[1])
        assert fired["recall"][layer - 1][:, at].any() != fired["reasoning"][layer - 1][:, at].any()


def test_in_the_null_twin_every_head_does_as_much_for_both_tasks():
    planted = world(null=True)
    for name, layer, head in all_heads(planted.model):
        recall, reasoning = (restored(planted, task, layer, head) for task in TASKS)
        assert recall == pytest.approx(reasoning, abs=0.02), name
    assert not planted.truth["recall"]["heads"] and not planted.truth["effects"]


def test_no_context_says_the_fact_of_a_subject_in_it():
    facts = [3, 0, 2, 5, 1, 4]
    puzzles = make_puzzles(60, facts, np.random.default_rng(0))
    recall, reasoning = (pairs_of(puzzles, task, facts) for task in TASKS)
    for text, answer, other in zip(recall.clean, recall.answer, recall.distractor, strict=True):
        assert answer not in text and other not in text and answer != other
    for text, answer, other in zip(reasoning.clean, reasoning.answer, reasoning.distractor, strict=True):
        words = text.split()
        middle = words[words.index(words[-1]) + 1]
        assert (
            words[max(i for i, w in enumerate(words) if w == middle and words[i + 1] in (answer, other)) + 1] == answer
        )
    assert {p.subjects[p.asked] for p in puzzles} == set(range(6))
