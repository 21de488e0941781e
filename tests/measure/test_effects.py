"""Use: a concept that the model reads out is told from one that is as readable and that nothing reads."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.atlas.reading import Reading, make_problem, read_concept
from conceptlab.atlas.use import held_out_rows, measure_use
from conceptlab.find.directions.mean_difference import mean_difference, readout_spread
from conceptlab.measure.effects.beside_random import effects_table, summarise
from conceptlab.measure.effects.direction_effects import ABLATE, ADD, coordinates, random_bases
from conceptlab.measure.effects.judges import KL, READOUT, WORDS, make_judge, word_ids
from conceptlab.measure.effects.unit_effects import random_sets, unit_effects
from conceptlab.model import Model, load_model
from conceptlab.model.replay import prepare_replay
from conceptlab.results import Provenance, Site, Subspace
from conceptlab.worlds.concept_at_layer import concept_at_layer

PROVENANCE = Provenance("use", 1, 0)
APPEARS = 2


@cache
def world(writer: str):
    return concept_at_layer(writer=writer, appears_at=APPEARS, n_layers=4, n_texts=160)


@cache
def model(writer: str) -> Model:
    return load_model(world(writer).model, tokenizer=world(writer).tokenizer)


@cache
def reading(writer: str) -> Reading:
    return read_concept(model(writer), world(writer).concepts["used"])  # both concepts are about the same texts


@cache
def used(writer: str, name: str):
    concept = world(writer).concepts[name]
    problem = make_problem(concept, 0, 0)
    curve = np.arange(5) == APPEARS + 1  # the stream after the block where it appears
    return measure_use(model(writer), concept, reading(writer), problem, curve, [], PROVENANCE, n_rows=16, n_random=40)


@pytest.mark.parametrize("writer", ["neurons", "head"])
def test_a_used_direction_does_far_more_than_random_ones(writer):
    use = used(writer, "used")
    truth = world(writer).truth["concepts"]["used"]["log_odds"]
    assert use.kind == "log-odds of label words, nats"
    assert use.effect == pytest.approx(truth["unchanged"] - truth["projected_out"], abs=1.0)
    assert use.effect > 10 * abs(use.control) and use.interval[0] > 5
    table = use.effects.data
    for intervention, expected in ((ABLATE, 11.0), (ADD, 22.0)):
        row = table.sel(intervention=intervention, readout=WORDS)
        assert float(row["score"]) == pytest.approx(expected, abs=2.0)
        assert float(row["p"]) == pytest.approx(1 / 41)
        assert float(row["control_high"]) < 0.3 * float(row["score"])
        assert float(table.sel(intervention=intervention, readout=KL)["p"]) == pytest.approx(1 / 41)


@pytest.mark.parametrize("writer", ["neurons", "head"])
def test_a_readable_direction_that_nothing_reads_has_no_effect_on_the_words(writer):
    table = used(writer, "unused").effects.data
    for intervention in (ABLATE, ADD):
        row = table.sel(intervention=intervention, readout=WORDS)
        assert abs(float(row["score"])) < 0.5 and float(row["p"]) > 0.05
        assert float(table.sel(intervention=intervention, readout=KL)["p"]) > 0.05
        # though it is there to be read in the last layer
        assert float(table.sel(intervention=intervention, readout=READOUT)["p"]) == pytest.approx(1 / 41)


def units_of(writer: str, concept: str) -> list[Site]:
    truth = world(writer).truth["concepts"][concept]
    if writer == "head":
        return [Site.parse(f"{name}.z") for name, fact in truth["heads"].items() if fact["role"] == "move"]
    return [Site.parse(f"{name}.mlp_post") for name in truth["neurons"]]


@pytest.mark.parametrize("writer", ["neurons", "head"])
@pytest.mark.parametrize("name", ["used", "unused"])
def test_units_that_carry_the_concept_matter_only_where_it_is_used(writer, name):
    it, concept, read = model(writer), world(writer).concepts[name], reading(writer)
    problem = make_problem(concept, 0, 0)
    train, rows = problem.folds != 0, held_out_rows(concept, problem.folds, 16)
    fit = {"concept": name, "class_names": concept.class_names, "provenance": PROVENANCE}
    last = mean_difference(read.stream[train, -1], concept.labels[train], site=Site("resid_post", 3), **fit)
    replay = prepare_replay(it, read.batch.select(rows), [read.read[r] for r in rows])
    classes = torch.from_numpy(concept.labels[rows])
    spread = readout_spread(read.stream[train, -1], last)
    judge = make_judge(it, replay, last, spread, classes=classes, sign=None, words=concept.words)
    values, layers = (read.z, read.z_layers) if writer == "head" else (read.post, read.post_layers)
    table = unit_effects(replay, judge, units_of(writer, name), values[train].mean(0), layers, n_random=40)
    found = {reading: summary for (_, reading), summary in table.items()}
    assert {i for i, _ in table} == {"ablate heads" if writer == "head" else "ablate neurons"}
    assert found[READOUT]["p"] == pytest.approx(1 / 41) and found[READOUT]["score"] > 0.5
    if name == "used":
        assert found[WORDS]["score"] == pytest.approx(11, abs=1.5) and found[WORDS]["p"] == pytest.approx(1 / 41)
    else:
        assert abs(found[WORDS]["score"]) < 0.5


def test_random_controls_move_as_far_as_the_direction():
    generator = torch.Generator().manual_seed(0)
    bases = random_bases(3, 40, 10, generator)
    eye = torch.eye(3).expand(10, 3, 3)
    torch.testing.assert_close(bases @ bases.transpose(1, 2), eye, atol=1e-5, rtol=0)
    subspace = Subspace(bases[0], torch.ones(40), Site("embed"), "c", tuple("abc"), torch.eye(3), PROVENANCE)
    stream, classes = torch.randn(7, 40, generator=generator), torch.arange(7) % 3
    for name, moves in coordinates(stream, subspace, classes, None, 1.0).items():
        lengths = torch.einsum("nr,krd->knd", moves, bases).norm(dim=-1)
        torch.testing.assert_close(lengths, lengths[:1].expand(10, 7), atol=1e-4, rtol=0)
        if name == ABLATE:  # nothing of the row is left inside the subspace but the mean
            left = (stream + moves @ subspace.basis - subspace.mean) @ subspace.basis.T
            assert float(left.abs().max()) < 1e-5


def test_random_sets_have_the_size_and_avoid_the_real_units():
    wanted = np.zeros((3, 10), dtype=bool)
    wanted[1, [2, 5]] = True
    sets = random_sets(2, (3, 10), 50, 0, avoid=wanted)
    assert (sets.sum((1, 2)) == 2).all() and not (sets & wanted).any() and len(np.unique(sets, axis=0)) > 40


def test_a_summary_stands_beside_its_controls():
    rng = np.random.default_rng(0)
    strong = summarise(rng.normal(2, 0.1, 30), rng.normal(0, 0.1, (99, 30)), seed=0)
    assert strong["p"] == 0.01 and strong["low"] < 2 < strong["high"] and strong["control_high"] < 0.1
    weak = summarise(rng.normal(size=30), rng.normal(size=(99, 30)), seed=0)
    assert weak["p"] > 0.01
    undefined = summarise(np.full(3, np.nan), np.zeros((2, 3)), seed=0)
    assert np.isnan(undefined["score"])
    table = effects_table({("a", "x"): strong, ("b", "y"): strong})
    assert table["score"].shape == (2, 2) and np.isnan(table["score"].values[0, 1])


def test_label_words_that_cannot_be_told_apart_are_left_out():
    it = model("neurons")
    assert word_ids(it, (("no",), ("yes", "indeed")))[0] is not None
    assert "same token" in word_ids(it, (("no",), ("yes", "no")))[1]
    assert "tokenizer knows" in word_ids(it, (("zebra",), ("yes",)))[1]
