"""OR and AND: what noising hides and what denoising hides."""

from functools import cache

import pytest
import torch

from conceptlab.worlds.boolean import boolean

from .plain_hooks import accuracy, down_projection, last_logits, patch_effects, patched_head, pre_hooks

GATES = ("or", "and")


@cache
def world(gate: str, null: bool = False, seed: int = 0):
    return boolean(gate=gate, seed=seed, null=null)


def answer_logit(planted, logits):
    return logits[torch.arange(len(logits)), torch.tensor(planted.answer_ids("clean"))]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("family", ["clean", "key", "query"])
def test_every_prompt_is_answered(gate, family):
    planted = world(gate)
    assert accuracy(planted, family) == planted.truth["accuracy"] == 1.0
    found = float(answer_logit(planted, last_logits(planted, planted.prompts[family])).mean())
    assert found == pytest.approx(planted.truth["answer_logit"][family], abs=planted.truth["tolerance"]["answer_logit"])


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("corruption", ["key", "query"])
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_patching_each_head_gives_the_stated_effect(gate, corruption, direction):
    planted = world(gate, seed=1)
    runs = ("clean", corruption) if direction == "noising" else (corruption, "clean")
    found = patch_effects(planted, *runs, lambda logits: answer_logit(planted, logits))
    for name, effect in found.items():
        head = planted.truth["heads"].get(name)
        stated = head[direction][corruption] if head else 0.0
        assert effect == pytest.approx(stated, abs=planted.truth["tolerance"]["noising"])


@pytest.mark.parametrize("gate", GATES)
def test_one_branch_is_enough_for_or_and_not_for_and(gate):
    planted = world(gate)
    clean = planted.prompts["clean"]
    with patched_head(planted.model, 1, 0, 0.0):
        one = accuracy(planted)
        with patched_head(planted.model, 1, 1, 0.0):
            none = answer_logit(planted, last_logits(planted, clean))
    assert one == 1.0 if gate == "or" else one < 0.35
    assert float(none.abs().max()) < 0.5


@pytest.mark.parametrize("gate", GATES)
def test_the_named_neurons_join_the_votes(gate):
    planted = world(gate)
    named = sorted(int(name.split("N")[1]) for name in planted.truth["neurons"])
    project = down_projection(planted.model, 1)
    written = project.weight.detach().abs().sum(-1)
    assert torch.nonzero(written).flatten().tolist() == named

    def without(neurons):
        neurons = neurons.clone()
        neurons[..., named] = 0.0
        return neurons

    with pre_hooks((project, without)):
        left = answer_logit(planted, last_logits(planted, planted.prompts["clean"]))
    assert float(left.abs().max()) < 0.5


@pytest.mark.parametrize("gate", GATES)
def test_the_null_twin_is_at_chance(gate):
    twin = world(gate, null=True)
    assert twin.truth["heads"] == {}
    assert accuracy(twin) < 0.27
