"""Knocking out by heuristic: equal to plain edited runs, large where neurons work, nothing for decoys; bad input."""

import numpy as np
import pytest
import torch

from conceptlab.data.arithmetic import operand_grid
from conceptlab.data.heuristics import heuristic_library
from conceptlab.errors import InputError
from conceptlab.measure.effects.heuristic_knockout import heuristic_knockout, zeroed
from conceptlab.measure.effects.heuristic_specificity import heuristic_specificity
from conceptlab.measure.effects.neuron_sufficiency import neuron_sufficiency
from conceptlab.model import load_model
from conceptlab.model.metric import logit
from conceptlab.results import Site
from conceptlab.worlds.heuristic_neurons import D_MLP, N, heuristic_neurons

CELLS = operand_grid(N)
ROWS = np.arange(0, 100, 9)


@pytest.fixture(scope="module")
def bag():
    world = heuristic_neurons()
    model = load_model(world.model, tokenizer=world.tokenizer)
    library, planted = heuristic_library(CELLS), {**world.truth["heuristics"], **world.truth["decoys"]}
    sites = [Site.parse(f"{name}.mlp_post") for name in planted]
    masks = np.stack([library.mask(name) for name in planted.values()])
    return world, model, sites, masks


def some(world):
    return [CELLS.prompts[r] for r in ROWS], [world.answer_ids("clean")[r] for r in ROWS]


def test_prompts_lose_by_their_own_heuristics_only(bag):
    world, model, sites, masks = bag
    prompts, ids = some(world)
    found = heuristic_knockout(model, prompts, ids, sites, masks[:, ROWS], n_random=4)
    assert found["score"].values[0] >= 80 and (found["control"].values <= 5).all() and found["p"].values[0] <= 0.01
    assert found["score"].values[1] <= 5  # the most active others are silent there
    assert found["low"].values[0] > found["control"].values[0]
    for i, row in enumerate(found["row"].values):
        own = [site for site, covered in zip(sites, masks[:, ROWS[row]], strict=True) if covered]
        with model.edited(*zeroed(own)):
            wrong = int(model.logits(prompts[row]).argmax(-1)[0]) != ids[row]
        assert found["lost"].values[i] == wrong and found["size"].values[i] == len(own)


def test_shuffled_heuristics_cost_no_more_than_random_neurons(bag):
    world, model, sites, masks = bag
    prompts, ids = some(world)
    order = np.random.default_rng(0).permutation(100)
    found = heuristic_knockout(model, prompts, ids, sites, masks[:, order][:, ROWS], n_random=4)
    assert found["score"].values[0] - found["control"].values[0] < 30


def test_decoys_cost_nothing(bag):
    world, model, sites, masks = bag
    prompts, ids = some(world)
    decoy = np.arange(len(sites)) >= len(world.truth["heuristics"])
    found = heuristic_knockout(model, prompts, ids, sites, masks[:, ROWS] & decoy[:, None], n_random=2)
    assert len(found["row"]) and found["score"].values[0] == 0


def test_without_a_judged_prompt_every_number_is_nan(bag):
    world, model, sites, masks = bag
    prompts, ids = some(world)
    found = heuristic_knockout(model, prompts, ids, sites, np.zeros_like(masks[:, ROWS]))
    assert np.isnan(found["score"].values).all() and found.provenance.n == 0


def of_answers(model, world):
    """P(answer) of every cell."""
    at = torch.tensor(world.answer_ids("clean"))
    return model.logits(CELLS.prompts).softmax(-1)[torch.arange(100), at].numpy()


def test_a_heuristics_own_prompts_lose_more(bag):
    world, model, sites, masks = bag
    names = list(world.truth["heuristics"].values())
    groups = {"mod 5": [n for n in names if "mod 5" in n], "mod 4": [n for n in names if "mod 4" in n]}
    member = np.array([[n in group for group in groups.values()] for n in [*names, *[""] * (len(sites) - len(names))]])
    everywhere = np.ones((2, 100), dtype=bool)
    everywhere[:, ::2] = False
    found = heuristic_specificity(
        model, CELLS.prompts, world.answer_ids("clean"), sites, member, everywhere, list(groups)
    )
    with model.edited(*zeroed([s for s, m in zip(sites, member[:, 0], strict=True) if m])):
        after = of_answers(model, world)
    lost = 100 * (of_answers(model, world) - after)
    assert found["score"].values[0] == pytest.approx(lost[1::2].mean(), abs=1e-3)
    assert found["control"].values[0] == pytest.approx(lost[::2].mean(), abs=1e-3)
    assert lost.mean() > 5 and found["size"].values.tolist() == [5, 4]


def test_the_important_neurons_suffice_and_decoys_do_not(bag):
    world, model, _, _ = bag
    metric = logit(world.answer_ids("clean"))
    important = [Site.parse(f"{name}.mlp_post") for name in world.truth["important"]]
    decoys = [Site.parse(f"{name}.mlp_post") for name in world.truth["decoys"]]
    good = neuron_sufficiency(model, CELLS.prompts, metric, important, [1], n_random=30)
    assert float(good["score"]) >= 0.95 > float(good["control_high"]) and float(good["p"]) < 0.05
    assert float(good["low"]) <= float(good["score"]) <= float(good["high"])
    bad = neuron_sufficiency(model, CELLS.prompts, metric, decoys, [1], n_random=30)
    assert abs(float(bad["score"])) < 0.05 and float(bad["p"]) > 0.05


def test_bad_input_is_one_clear_line(bag):
    world, model, sites, masks = bag
    ids = world.answer_ids("clean")
    with pytest.raises(InputError, match="do not fit"):
        heuristic_knockout(model, CELLS.prompts, ids, sites, masks[:, :5])
    with pytest.raises(InputError, match="do not fit"):
        heuristic_specificity(model, CELLS.prompts, ids, sites, masks, masks, ["a"])
    with pytest.raises(InputError, match="lower fewest"):
        heuristic_specificity(model, CELLS.prompts, ids, sites, np.zeros((len(sites), 1), bool), masks[:1], ["a"])
    with pytest.raises(InputError, match="none of the layers"):
        neuron_sufficiency(model, CELLS.prompts, logit(ids), sites, [0])
    twin = heuristic_neurons(solution="algorithm")
    line = load_model(twin.model, tokenizer=twin.tokenizer)
    with pytest.raises(InputError, match="nothing to explain"):
        neuron_sufficiency(line, CELLS.prompts, logit(ids), [Site("mlp_post", 1, tuple(range(D_MLP // 2)))], [1])
