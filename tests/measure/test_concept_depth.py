"""Concept depth in several conditions: plain curves are those of the layer-wise probe, and planted layers come out."""

import numpy as np
import pytest
import torch

from conceptlab.data import Concept
from conceptlab.errors import DataError, InputError
from conceptlab.measure.probing.concept_depth import chance_of, concept_depth, first_readable, shifts
from conceptlab.measure.probing.layer_probe import held_out_curve, held_out_scores, probe_layers
from conceptlab.measure.probing.streams import locate, make_problem, stream_at
from conceptlab.model import load_model
from conceptlab.model.quantise import ROUNDINGS, quantised
from conceptlab.worlds.concept_at_layer import concept_at_layer


@pytest.fixture(scope="module")
def world():
    return concept_at_layer(appears_at=1, n_layers=3, n_texts=120, seed=3)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def test_the_plain_curve_is_the_layer_wise_probes(world, model):
    concept = world.concepts["used"]
    found = concept_depth(model, [concept], conditions=["int8"], n_seeds=1, permutations=5, seed=3)
    problem = make_problem(concept, 5, 3)
    stream = stream_at(model, *locate(model, concept))
    plain = probe_layers(stream, problem, seed=3)
    at = found.data.sel(concept="used", condition="as is")
    np.testing.assert_allclose(at["score"], plain.curve["score"], atol=1e-6)
    np.testing.assert_allclose(at["control"], plain.curve["control"], atol=1e-6)
    np.testing.assert_allclose(at["low"], plain.curve["low"], atol=1e-6)
    np.testing.assert_allclose(held_out_scores(stream, problem)[0][:, 0], held_out_curve(stream, problem), atol=1e-6)
    assert at["depth"].values[0] == world.truth["concepts"]["used"]["appears_at"] + 1 == at["jump"].values[0]
    with quantised(model, to="int8"):
        rounded = stream_at(model, *locate(model, concept))
    np.testing.assert_allclose(
        found.data.sel(concept="used", condition="int8")["score"], held_out_curve(rounded, problem), atol=1e-6
    )


def test_ruined_weights_move_the_depth_and_are_put_back(world, model, monkeypatch):
    """A rounding to nothing takes the concept away: its depth is then none, and so is the shift."""
    monkeypatch.setitem(ROUNDINGS, "int4", lambda weight, axis: weight * 0)
    weights = {n: p.clone() for n, p in model.module.named_parameters()}
    found = concept_depth(model, [world.concepts["used"]], conditions=["bf16", "int4"], n_seeds=2, permutations=10)
    moved = shifts(found).sel(concept="used")
    assert (moved.sel(condition="bf16") == 0).all() and np.isnan(moved.sel(condition="int4")).all()
    assert found.data.sel(condition="int4")["score"].max() < 0.7
    assert all(torch.equal(p, weights[n]) for n, p in model.module.named_parameters())


def test_roundings_differ_as_they_should():
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    errors = {name: float((round_trip(weight, 0) - weight).abs().max()) for name, round_trip in ROUNDINGS.items()}
    assert 0 < errors["int8"] < errors["int4"] <= float(weight.abs().max()) / 14 * 1.001
    assert torch.equal(ROUNDINGS["bf16"](weight, 0), weight.bfloat16().float())
    columns = ROUNDINGS["int4"](weight, 1)
    assert torch.allclose(columns, ROUNDINGS["int4"](weight.T, 0).T)


def test_first_readable_needs_the_bar_and_half_the_way():
    null = np.full((4, 20), 0.5)
    assert first_readable(np.array([0.5, 0.6, 0.9, 1.0]), null) == 2  # 0.6 beats the bar, not half of the way
    assert np.isnan(first_readable(np.full(4, 0.5), null))
    flattened = np.array([0.5, 0.64, 0.7, 0.76])
    assert first_readable(flattened, null) == 1 and first_readable(flattened, null, peak=1.0) == 3
    assert first_readable(np.array([0.9, 0.9, 0.9, 0.9]), null) == 0


def test_chance_is_that_of_the_classes():
    texts = tuple(f"t{i}" for i in range(10))
    three = Concept("c", texts[:9], np.arange(9) % 3, "classes", ("a", "b", "c"))
    lopsided = Concept("l", texts, (np.arange(10) > 0).astype(int), "binary", ("a", "b"))
    graded = Concept("g", texts, np.arange(10.0), "graded")
    assert [round(chance_of(c), 3) for c in (three, lopsided, graded)] == [0.333, 0.5, 0.0]


def test_input_that_cannot_work_is_one_line(world, model):
    used = world.concepts["used"]
    with pytest.raises(InputError, match="the conditions are as is, noised"):
        concept_depth(model, [used], conditions=["int2"])  # type: ignore[list-item]
    with pytest.raises(InputError, match="0 seeds give no curve"):
        concept_depth(model, [used], n_seeds=0)
    with pytest.raises(DataError, match="3 types came for 120 rows"):
        concept_depth(model, [used], conditions=["as is"], n_seeds=1, permutations=1, types={"used": np.arange(3)})
    with pytest.raises(InputError, match="not rounded to 'int3'"), quantised(model, to="int3"):
        pass
