"""The quick form of `make calibration`: noise stays at its level and planted truth is found, by the calibration's own code."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from conceptlab.evidence import q_values


@pytest.fixture(scope="module")
def calibration():
    path = Path(__file__).parents[2] / "benchmarks" / "calibration.py"
    spec = importlib.util.spec_from_file_location("calibration", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_noise_is_found_no_more_often_than_the_level(calibration):
    p = np.array([calibration.null_run(seed, layers=3, draws=39) for seed in range(12)])
    # at 5 % more than 8 of 60 has probability 0.002
    assert (p <= 0.05).sum() <= 8
    assert 0.35 < p.mean() < 0.65
    assert sum((q_values(row) <= 0.05).any() for row in p) <= 3


@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_units_on_noise_and_planted(calibration, kind):
    # common factors make chance findings come together, so runs are counted, not units
    assert sum(calibration.units_run(seed, kind, 0.0)[1] > 0 for seed in range(20)) <= 4
    hits = np.array([calibration.units_run(seed, kind, 0.8) for seed in range(10)])
    assert hits[:, 0].mean() >= 5.5
    assert (hits[:, 1] / hits.sum(1)).mean() <= 0.15


def test_a_planted_concept_is_found_where_it_begins(calibration):
    found, off, over = zip(*(calibration.planted_run(seed, 1.0) for seed in range(4)), strict=True)
    assert all(found) and set(off) <= {0, 1} and np.mean(over) > 0.2
