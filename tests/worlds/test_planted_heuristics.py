"""The heuristic worlds: three models with the same answers, and inside what their truth says; the trained model's cache."""

import numpy as np
import pytest
import torch

from conceptlab.data.arithmetic import operand_grid
from conceptlab.data.heuristics import heuristic_library
from conceptlab.model import load_model
from conceptlab.results import Edit, Site
from conceptlab.worlds.heuristic_neurons import D_MLP, N, heuristic_neurons
from conceptlab.worlds.trained_arithmetic import N_OPERANDS, arithmetic_tokenizer, trained_arithmetic

CELLS = operand_grid(N)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("solution", ["bag", "rote", "algorithm"])
def test_all_three_answer_every_sum(solution, seed):
    world = heuristic_neurons(solution=solution, seed=seed)
    assert world.prompts["clean"] == CELLS.prompts and world.answers["clean"] == CELLS.answers
    logits = load_model(world.model, tokenizer=world.tokenizer).logits(world.prompts["clean"])
    best = logits.topk(2)
    assert best.indices[:, 0].tolist() == world.answer_ids("clean")
    assert (best.values[:, 0] - best.values[:, 1]).min() > 1  # no answer hangs by a hair


def fired(world):
    model = load_model(world.model, tokenizer=world.tokenizer)
    return model.capture(world.prompts["clean"], "mlp_post", layers=[1])["mlp_post"][:, 0].numpy()


def test_planted_neurons_fire_where_their_name_says():
    world, library = heuristic_neurons(), heuristic_library(CELLS)
    acts = fired(world)
    for name, heuristic in {**world.truth["heuristics"], **world.truth["decoys"]}.items():
        assert np.abs(acts[:, int(name[4:])] - library.mask(heuristic)).max() < 0.2
    for name, (a, b) in world.truth["pairs"].items():
        assert np.abs(acts[:, int(name[4:])] - (np.arange(N * N) == N * a + b)).max() < 0.2


def without(world, neurons):
    model = load_model(world.model, tokenizer=world.tokenizer)
    with model.edited(Edit(Site("mlp_post", 1, tuple(neurons)), "zero", positions="last")):
        found = model.logits(world.prompts["clean"]).argmax(-1)
    return float((found == torch.tensor(world.answer_ids("clean"))).float().mean())


def test_decoys_do_nothing_and_the_important_ones_everything():
    for solution in ("bag", "rote"):
        world = heuristic_neurons(solution=solution)
        assert without(world, [int(n[4:]) for n in world.truth["decoys"]]) == 1.0
        assert without(world, [int(n[4:]) for n in world.truth["important"]]) < 0.2
    assert without(heuristic_neurons(solution="algorithm"), range(D_MLP)) == 1.0


def test_the_null_twin_answers_by_rote():
    twin = heuristic_neurons(null=True, seed=2)
    assert twin.null and not twin.truth["heuristics"] and len(twin.truth["important"]) == 120


def test_a_short_training_is_kept_and_found_again(tmp_path):
    first = trained_arithmetic(steps=2, cache=tmp_path)
    again = trained_arithmetic(steps=2, cache=tmp_path)
    assert not first.from_cache and again.from_cache and first.steps == 2
    model = load_model(again.model, tokenizer=arithmetic_tokenizer())
    prompts = operand_grid(N_OPERANDS, operator="-").prompts[:3]
    assert torch.equal(model.logits(prompts), load_model(first.model, tokenizer=arithmetic_tokenizer()).logits(prompts))
