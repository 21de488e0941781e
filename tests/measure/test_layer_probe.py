"""Concept depth on planted layers (A1): the jump where it was planted, and nothing on shuffled labels."""

import numpy as np
import pytest
import torch

from conceptlab.evidence import make_folds, permuted_labels
from conceptlab.measure.probing.columns import Problem, choose_metric
from conceptlab.measure.probing.curve import converging_points, literal_converging_point
from conceptlab.measure.probing.layer_probe import held_out_curve, probe_layers
from conceptlab.numerics.linear_fit import rotated_layers
from conceptlab.worlds.activations import depth_activations


def problem_of(labels, kind="binary", groups=None, draws=20, seed=0) -> Problem:
    folds = make_folds(labels, groups, seed=seed)
    shuffled = permuted_labels(labels, groups, draws, seed + 1, folds=folds)
    return Problem(np.concatenate([labels[None], shuffled]), folds, kind, choose_metric(labels, kind))


@pytest.fixture(scope="module")
def planted():
    made = depth_activations()
    return made, probe_layers(made.features, problem_of(made.labels))


def test_the_jump_and_the_plateau_are_where_they_were_planted(planted):
    made, probe = planted
    curve = probe.curve["score"].values
    # 12 layers without an embedding: the specification's fractions l/12 are l/11 on this axis
    assert probe.jump == pytest.approx(made.truth["appears_at"] / 11)
    assert probe.settled == pytest.approx((made.truth["appears_at"] + 1) / 11)
    assert literal_converging_point(curve) == pytest.approx(11 / 11)
    assert np.abs(curve[:5] - 0.5).max() < 0.05 and np.abs(curve[5:] - made.truth["accuracy"]).max() < 0.03
    assert 5 <= probe.best_layer <= 11 and (probe.chosen >= 5).all()
    assert probe.p == pytest.approx(1 / 21)
    assert probe.interval[0] < probe.score < probe.interval[1] and abs(probe.score - made.truth["accuracy"]) < 0.03
    assert abs(probe.control - 0.5) < 0.02


def test_the_specifications_fractions_on_an_axis_with_an_embedding(planted):
    _, probe = planted
    scores = np.r_[0.5, probe.curve["score"].values]  # embed, then layers 0 … 11
    null = np.full((13, 20), 0.5)
    jump, settled = converging_points(scores, null, "accuracy")
    assert jump == pytest.approx(6 / 12) and settled == pytest.approx(7 / 12)


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_labels_have_no_jump_and_no_score(seed):
    made = depth_activations(n=1200, layers=6, appears_at=2, seed=seed)
    labels = np.random.default_rng(seed).permutation(made.labels)
    probe = probe_layers(made.features, problem_of(labels, seed=seed), seed=seed)
    assert probe.jump is None and probe.settled is None
    assert probe.curve["score"].values.max() < 0.56
    assert probe.p > 1 / 21


def test_the_curve_alone_is_the_same_curve(planted):
    made, probe = planted
    np.testing.assert_allclose(held_out_curve(made.features, problem_of(made.labels)), probe.curve["score"], atol=2e-3)


def test_rotated_features_give_the_same_and_the_seed_decides():
    made = depth_activations(n=200, layers=3, appears_at=1)
    problem = problem_of(made.labels)
    one, two = probe_layers(made.features, problem), probe_layers(list(rotated_layers(made.features)), problem)
    assert one.curve.identical(two.curve) and one.score == two.score and (one.null == two.null).all()


@pytest.mark.parametrize("kind", ["auc", "graded", "classes"])
def test_other_kinds_are_found_and_their_shuffles_are_not(kind):
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=300)
    labels = {
        "auc": (hidden > 0.9).astype(np.int64),
        "graded": hidden + 0.3 * rng.normal(size=300),
        "classes": np.digitize(hidden, [-0.6, 0.6]),
    }[kind]
    name = "binary" if kind == "auc" else kind
    features = torch.randn(300, 3, 16, generator=torch.Generator().manual_seed(0))
    features[:, 2, 3] += 3 * torch.tensor(hidden)
    if kind == "classes":
        features[:, 2, 4] += 3 * torch.tensor(np.abs(hidden))  # the middle class is no end of the line
    problem = problem_of(labels, name)
    probe = probe_layers(features, problem)
    assert problem.metric == {"auc": "auc", "graded": "r", "classes": "accuracy"}[kind]
    assert probe.best_layer == 2 and probe.p == pytest.approx(1 / 21) and probe.jump == 1.0
    assert probe.interval[0] <= probe.score <= probe.interval[1]
    found = []
    for seed in range(4):
        shuffled = permuted_labels(labels, None, 21, 90 + seed, folds=problem.folds)
        found.append(probe_layers(features, Problem(shuffled, problem.folds, name, problem.metric)).p)
    assert np.mean(found) > 0.2  # uniform p: the mean of four lies below 0.2 once in 60 times


def test_the_null_sits_at_chance_also_with_few_rows():
    # shuffles across stratified folds would sit at 0.44 here
    features = torch.randn(60, 2, 32, generator=torch.Generator().manual_seed(1))
    probe = probe_layers(features, problem_of(np.arange(60) % 2, draws=100))
    assert abs(probe.control - 0.5) < 0.02


def test_a_perfect_score_is_not_said_to_be_certain():
    labels = np.arange(100) % 2
    features = torch.randn(100, 1, 4, generator=torch.Generator().manual_seed(0)) * 0.1
    features[:, 0, 0] += torch.tensor(labels * 4.0)
    probe = probe_layers(features, problem_of(labels))
    assert probe.score == 1.0 and probe.interval == (pytest.approx(0.025 ** (1 / 100)), 1.0)


def test_groups_are_never_on_both_sides():
    # every group has its own place, and its label: rows of a group give each other away unless they share a fold
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 8)
    labels = rng.permutation(np.arange(40) % 2)[groups]
    features = torch.tensor(rng.normal(size=(40, 24))[groups] + 0.1 * rng.normal(size=(320, 24)))[:, None].float()
    leaking, honest = (probe_layers(features, problem_of(labels, groups=g), g) for g in (None, groups))
    assert leaking.score > 0.8 and leaking.p < 0.05
    assert honest.score < 0.7 and honest.p > 0.05
    assert np.ptp(honest.interval) > np.ptp(leaking.interval)


def test_one_layer_needs_no_choice_and_scores_as_two_equal_ones_do():
    made = depth_activations(n=200, layers=2, appears_at=0)
    problem, one = problem_of(made.labels), made.features[:, :1]
    alone, twice = probe_layers(one, problem), probe_layers(one.repeat(1, 2, 1), problem)
    assert alone.score == pytest.approx(twice.score, abs=1e-6) and alone.p == twice.p and (alone.chosen == 0).all()
    np.testing.assert_allclose(alone.null, twice.null, atol=1e-6)
