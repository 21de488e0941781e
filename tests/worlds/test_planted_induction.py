"""The induction world: its truth is measured again with plain hooks."""

from functools import cache

import pytest
import torch

from conceptlab.worlds.induction import WORDS, induction

from .plain_hooks import (
    accuracy,
    all_heads,
    last_logits,
    logit_diff,
    patch_effects,
    patched_head,
    patterns,
)

ATTENTION = ("hard", "soft")


@cache
def world(attention: str, null: bool = False, seed: int = 0):
    return induction(attention=attention, seed=seed, null=null)


def metric(planted, corruption):
    right, wrong = planted.answer_ids("clean"), planted.answer_ids(corruption)
    return lambda logits: logit_diff(logits, right, wrong)


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("family", ["clean", "key", "query"])
def test_every_prompt_is_answered(attention, family):
    assert accuracy(world(attention), family) == world(attention).truth["accuracy"] == 1.0


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("corruption", ["key", "query"])
@pytest.mark.parametrize("seed", [0, 1])
def test_patching_each_head_gives_the_stated_effect(attention, corruption, seed):
    planted = world(attention, seed=seed)
    found = patch_effects(planted, "clean", corruption, metric(planted, corruption))
    assert set(found) == set(planted.truth["heads"])
    for name, head in planted.truth["heads"].items():
        assert found[name] == pytest.approx(head["noising"][corruption], abs=planted.truth["tolerance"]["noising"])


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_logit_differences_are_as_stated(attention):
    planted = world(attention)
    for family, stated in planted.truth["logit_diff"].items():
        corruption = "key" if family == "clean" else family
        found = metric(planted, corruption)(last_logits(planted, planted.prompts[family])).mean()
        assert float(found) == pytest.approx(stated, abs=planted.truth["tolerance"]["logit_diff"])


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_patterns_are_as_stated(attention):
    planted = world(attention)
    found, n = patterns(planted, planted.prompts["repeated"]), 10
    query, second = torch.arange(1, 2 * n + 1), torch.arange(n + 1, 2 * n + 1)
    scores = {
        "previous_token": found[..., query, query - 1].mean((1, -1)),
        "duplicate_token": found[..., second, second - n].mean((1, -1)),
        "induction": found[..., second, second - n + 1].mean((1, -1)),
    }
    for name, layer, head in all_heads(planted.model):
        for kind, stated in planted.truth["heads"][name]["pattern"].items():
            assert float(scores[kind][layer, head]) == pytest.approx(stated, abs=planted.truth["tolerance"]["pattern"])


def test_the_decoy_has_the_pattern_and_no_effect():
    planted = world("hard")
    decoy = planted.truth["heads"]["L0.H1"]
    assert decoy["role"] == "previous_token_decoy"
    assert decoy["pattern"] == planted.truth["heads"]["L0.H0"]["pattern"]
    with patched_head(planted.model, 0, 1, 0.0):
        without = last_logits(planted, planted.prompts["clean"])
    assert torch.equal(without, last_logits(planted, planted.prompts["clean"]))


def test_only_the_two_circuit_heads_are_needed():
    planted = world("hard")
    for name, layer, head in all_heads(planted.model):
        with patched_head(planted.model, layer, head, 0.0):
            left = accuracy(planted)
        if planted.truth["heads"][name]["role"] in ("previous_token", "induction"):
            assert left < 0.35
        else:
            assert left == 1.0


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_null_twin_is_at_chance(attention):
    twin = world(attention, null=True)
    assert twin.truth["heads"] == {}
    # 64 prompts at a chance of 1 / 12: above 0.27 once in 100,000 times
    assert accuracy(twin) < 0.27
    found = metric(twin, "key")(last_logits(twin, twin.prompts["clean"]))
    assert abs(float(found.mean())) < 0.2


def test_the_corruptions_swap_what_they_say():
    planted = world("hard")
    rows = zip(*(planted.prompts[name] for name in ("clean", "key", "query")), strict=True)
    for clean, key, query in ((a.split(), b.split(), c.split()) for a, b, c in rows):
        assert len(clean) == len(key) == len(query) == 9 and set(clean) <= set(WORDS)
        assert key[-1] == clean[-1] and sum(a != b for a, b in zip(clean, key, strict=True)) == 2
        assert query[:-1] == clean[:-1] and query[-1] != clean[-1]
