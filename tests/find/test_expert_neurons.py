"""Expert neurons: average precision as the textbook has it, planted experts of every node, inverted ones, nothing by chance."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from conceptlab.errors import InputError
from conceptlab.find.neurons.expert_neurons import Labelled, expert_neurons, experts_of, pooled_responses
from conceptlab.find.neurons.find_neurons import find_neurons
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.measure.geometry.expert_similarity import corrected_overlap, expert_similarity
from conceptlab.model import load_model
from conceptlab.numerics.average_precision import average_precision
from conceptlab.worlds.concept_tree import CONCEPTS, concept_tree


def world_of(n_concepts=6, **options):
    world = concept_tree(n_texts=12, **options)
    labelled = Labelled.of({name: world.prompts[name] for name in CONCEPTS[:n_concepts]}, world.prompts["negative"])
    return world, load_model(world.model, tokenizer=world.tokenizer), labelled


@pytest.fixture(scope="module")
def planted():
    return world_of()


def names(sites):
    return {f"L{s.layer}.N{s.units[0]}" for s in sites}


@pytest.mark.parametrize("budget", [1, 1 << 24])
@pytest.mark.parametrize("ties", [True, False])
def test_average_precision_is_the_textbooks(budget, ties):
    generator = torch.Generator().manual_seed(0)
    responses = torch.randn(50, 6, generator=generator)
    responses = responses.round() if ties else responses
    positive, valid = torch.rand(50, 3, generator=generator) < 0.3, torch.rand(50, 3, generator=generator) < 0.8
    found = average_precision(responses, positive, valid, budget_bytes=budget)
    for k in range(3):
        rows = valid[:, k]
        for unit in range(6):
            labels, values = positive[rows, k].numpy(), responses[rows, unit].numpy()
            assert float(found.ap[k, unit]) == pytest.approx(average_precision_score(labels, values), abs=1e-5)
            assert float(found.auc[k, unit]) == pytest.approx(roc_auc_score(labels, values), abs=1e-5)
    empty = average_precision(responses, torch.zeros(50, 1, dtype=torch.bool), torch.ones(50, 1, dtype=torch.bool))
    assert bool(empty.ap.isnan().all())


def test_responses_are_extremes_over_real_tokens(planted):
    _, model, labelled = planted
    top, low = pooled_responses(model, labelled.texts[:5])
    for i, text in enumerate(labelled.texts[:5]):
        values = model.capture([text], "mlp_post", positions="all")["mlp_post"]
        assert torch.allclose(top[i], values.amax(0)) and torch.allclose(low[i], values.amin(0))


def test_planted_experts_are_found(planted):
    world, model, labelled = planted
    found = expert_neurons(model, labelled)
    for name in labelled.names:
        mine = names(experts_of(found, name))
        wanted = set(world.truth["experts"][name])
        assert wanted <= mine and len(mine) <= len(wanted) + 8
    assert float(found["prevalence"][0]) == pytest.approx(12 / 60)


@pytest.mark.parametrize("seed", [1, 2])
def test_null_twins_and_shuffled_labels_have_few(seed):
    _, model, labelled = world_of(seed=seed, null=True)
    assert int(expert_neurons(model, labelled, seed=seed)["n_experts"].max()) <= 8
    _, model, labelled = world_of(seed=seed)
    rng = np.random.default_rng(seed)
    positive = np.stack([rng.permutation(labelled.positive[:, 0]) for _ in range(6)], 1)
    shuffled = Labelled(labelled.texts, labelled.names, positive, np.ones_like(positive))
    assert int(expert_neurons(model, shuffled, seed=seed)["n_experts"].sum()) <= 3


def test_neurons_that_fall_silent_are_seen_only_with_their_sign():
    rng = np.random.default_rng(0)
    labels = np.repeat([True, False], [40, 80])
    responses = torch.from_numpy(rng.normal(size=(120, 200)))
    responses[:40, :5] += 2.5
    responses[:40, 5:10] -= 2.5
    positive, every = torch.from_numpy(labels[:, None]), torch.ones(120, 1, dtype=torch.bool)
    up, down = average_precision(responses, positive, every).ap[0], average_precision(-responses, positive, every).ap[0]
    noise = float(torch.maximum(up, down)[10:].max())
    assert bool((up[:5] > noise).all()) and bool((up[5:10] < noise).all()) and bool((down[5:10] > noise).all())


def test_overlap_follows_the_tree_and_embeddings_do_not():
    world, _, _ = world_of()
    every = sorted({n for mine in world.truth["experts"].values() for n in mine})
    sets = np.zeros((len(CONCEPTS), 400), dtype=bool)
    for k, name in enumerate(CONCEPTS):
        sets[k, [every.index(n) for n in world.truth["experts"][name]]] = True
    human = np.array(world.truth["similarity"], dtype=float)
    rng = np.random.default_rng(0)
    found = expert_similarity(sets, human, rng.normal(size=(len(CONCEPTS), 30)), n_random=100)
    assert float(found["score"][0]) > 0.9 > 0.3 > abs(float(found["score"][1])) and float(found["gap_low"]) > 0.2
    assert float(found["p"][0]) < 0.02 and abs(float(found["control"][0])) < 0.05
    random = rng.random((len(CONCEPTS), 400)) < 0.05
    assert abs(corrected_overlap(random)[np.triu_indices(len(CONCEPTS), 1)].mean()) < 0.01
    assert float(expert_similarity(random, human, n_random=100)["p"][0]) > 0.05


def test_the_detector_needs_labels_and_then_ranks(planted):
    world, model, labelled = planted
    with pytest.raises(InputError, match="expert needs labelled texts"):
        find_neurons(model, ["expert"])
    found = find_neurons(model, ["expert"], survey=NeuronSurvey(model, labelled=labelled)).units["expert"]
    planted_any = {n for name in labelled.names for n in world.truth["experts"][name]}
    assert names(found.top(len(planted_any))) == planted_any


def test_wrong_requests_are_one_line():
    with pytest.raises(InputError, match="1 concepts .1 with fewer than two texts. and 0 negatives"):
        Labelled.of({"a": ["one"]}, [])
    with pytest.raises(InputError, match="five concepts or more"):
        expert_similarity(np.ones((3, 9), dtype=bool), np.ones((3, 3)))
