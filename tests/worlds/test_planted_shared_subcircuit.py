"""The world of a shared subcircuit, read with plain torch hooks: what its truth says is so, and its twin knows nothing."""

from functools import cache

import pytest
import torch

from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.shared_subcircuit import CIRCUITS, N_HEADS, REPEATED, ROLES, shared_subcircuit

from .plain_hooks import accuracy, last_logits, patched_head, tokens


@cache
def world(null: bool = False, seed: int = 0):
    return shared_subcircuit(n_prompts=24, seed=seed, null=null)


def differences(planted, task):
    """logit(answer) - logit(the twin's answer) [row]."""
    logits = last_logits(planted, planted.prompts[task])
    rows = torch.arange(len(logits))
    right, wrong = (torch.as_tensor(planted.answer_ids(name)) for name in (task, f"{task}_swapped"))
    return logits[rows, right] - logits[rows, wrong]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("task", CIRCUITS)
def test_tasks_are_solved_as_stated(task, seed):
    planted = world(seed=seed)
    truth = planted.truth
    for name in (task, f"{task}_swapped"):
        assert accuracy(planted, name) == truth["accuracy"][task]
    assert float(differences(planted, task).mean()) == pytest.approx(truth["logit_diff"][task], abs=truth["tolerance"])


@pytest.mark.parametrize("task", CIRCUITS)
def test_a_head_outside_a_circuit_can_be_taken_away_and_one_inside_cannot(task):
    planted = world()
    before = differences(planted, task)
    for layer in range(3):
        for head in range(N_HEADS):
            with patched_head(planted.model, layer, head, 0.0):
                moved = abs(float((differences(planted, task) - before).mean()))
            if f"L{layer}.H{head}" not in CIRCUITS[task]:
                assert moved < 0.4, (layer, head)
            elif f"L{layer}.H{head}" not in ("L1.H0", "L1.H1"):  # in `give` these two do the same, and one is enough
                assert moved > 0.5, (layer, head)


def attention(planted, task):
    """[layer, row, head, key] from the last position."""
    planted.model.set_attn_implementation("eager")
    with torch.no_grad():
        found = planted.model(**tokens(planted, planted.prompts[task]), output_attentions=True).attentions
    return torch.stack([layer[:, :, -1] for layer in found])


def test_inhibition_fires_in_one_task_and_hardly_in_the_other():
    planted = world()
    for task, expected in (("give", (1.0, 1.0)), ("ask", (0.16, 0.0))):
        on_repeated = attention(planted, task)[1, :, :2, REPEATED].mean(0)
        assert on_repeated.tolist() == pytest.approx(list(expected), abs=0.02)
    assert attention(planted, "ask")[1, :, 3, REPEATED].min() > 0.95  # the echo


def test_roles_cover_the_circuits_and_two_tasks_share_four_heads():
    assert set(ROLES) == {head for heads in CIRCUITS.values() for head in heads}
    assert len(set(CIRCUITS["give"]) & set(CIRCUITS["ask"])) == 4
    assert not set(CIRCUITS["order"]) & {*CIRCUITS["give"], *CIRCUITS["ask"]}


def test_the_null_twin_knows_nothing():
    twin = world(null=True)
    assert twin.truth["circuits"] == {} and twin.prompts == world().prompts
    for task in CIRCUITS:
        assert accuracy(twin, task) < 0.3 and float(differences(twin, task).mean().abs()) < 0.5


def test_pairs_have_one_length_and_the_world_loads(tmp_path):
    planted = world()
    for task in CIRCUITS:
        texts = [*planted.prompts[task], *planted.prompts[f"{task}_swapped"]]
        assert len({len(ids) for ids in planted.tokenizer(texts)["input_ids"]}) == 1
    planted.save(tmp_path)
    again = PlantedWorld.load(tmp_path)
    assert again.truth == planted.truth and again.prompts == planted.prompts
    for one, two in zip(again.model.parameters(), planted.model.parameters(), strict=True):
        assert torch.equal(one, two)
