"""The whole job on a planted world: found what was planted, silent on the rest, the same again, and resumable."""

import dataclasses

import numpy as np
import pytest

from conceptlab.atlas import mapping
from conceptlab.atlas.atlas import Atlas
from conceptlab.atlas.mapping import few_permutations, map_concepts
from conceptlab.data import Concept, ConceptSet
from conceptlab.errors import DataError
from conceptlab.model import load_model
from conceptlab.worlds.concept_at_layer import FAMILIES, concept_at_layer
from tests.model.tiny import other

SETTINGS = {"permutations": 80, "n_random": 30, "quick": True}


def side(texts, family: str) -> np.ndarray:
    """Which of the family's two classes a text has its word from."""
    second = set(FAMILIES[family][1])
    return np.array([any(word in second for word in text.split()) for text in texts], dtype=np.int64)


@pytest.fixture(scope="module")
def planted():
    """Four concepts of one world: used from layer 1 on, absent, graded and of four classes (both from layer 0 on)."""
    world = concept_at_layer(appears_at=1, n_layers=3, n_texts=160)
    used = world.concepts["used"]
    rng = np.random.default_rng(0)
    colour, animal = side(used.texts, "colour"), side(used.texts, "animal")
    names = ("plain", "other animal", "other colour", "both")
    concepts = (
        used,
        Concept("absent", used.texts, rng.permutation(used.labels), "binary", ("no", "yes")),
        Concept("degree", used.texts, colour + 0.5 * animal + 0.2 * rng.normal(size=160), "graded"),
        Concept("corner", used.texts, 2 * colour + animal, "classes", names),
    )
    return load_model(world.model, tokenizer=world.tokenizer), ConceptSet("planted", concepts)


def timeless(atlas: Atlas) -> Atlas:
    return dataclasses.replace(atlas, seconds=0.0)


@pytest.fixture(scope="module")
def whole(planted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map") / "atlas"
    return map_concepts(*planted, out=folder, **SETTINGS), folder


def test_what_was_planted_is_found_where_it_was_planted(whole):
    atlas, _ = whole
    assert {c.name: c.found for c in atlas.concepts} == {"used": True, "absent": False, "degree": True, "corner": True}
    used, absent, degree, corner = atlas.concepts
    assert used.best_layer == "1" and used.score == 1.0 and used.jump == pytest.approx(2 / 3)
    assert used.effect > 8 and used.effect > 5 * abs(used.effect_control)
    assert used.effect_kind == "log-odds of label words, nats"
    assert absent.q > 0.05 and absent.jump is None and not absent.top_neurons
    assert absent.score_interval[0] < 0.55 and abs(absent.control - 0.5) < 0.03
    for concept in (degree, corner):
        assert concept.best_layer != "embed" and concept.jump == pytest.approx(1 / 3)
        assert concept.score_interval[0] <= concept.score <= concept.score_interval[1]
        assert concept.effect_kind.startswith("KL")
    assert degree.metric == "r" and degree.score > 0.8
    assert corner.metric == "accuracy" and corner.score > 0.9 and corner.direction.rank == 3
    assert {"L0.H0.z", "L0.H1.z"} <= set(corner.top_heads)  # the heads that carry colour and animal
    assert len(used.top_neurons) >= 2


def test_every_score_has_its_control_and_its_envelope(whole):
    atlas, _ = whole
    for concept in atlas.concepts:
        depth = concept.depth.data
        assert list(depth["layer"].values) == ["embed", "0", "1", "2"]
        assert {"control", "control_high", "control_task", "selectivity", "compression"} <= set(depth.data_vars)
        assert concept.depth.provenance.passes > 160
        effects = concept.effects.data
        assert np.isfinite(effects["control_high"].sel(intervention="ablate direction")).all()
    assert atlas.geometry.data.sizes == {"concept": 4, "concept_other": 4}


def test_it_loads_back_equal_with_its_report(whole):
    atlas, folder = whole
    assert Atlas.load(folder) == atlas
    assert (folder / "report.html").stat().st_size > 10_000


def test_an_interrupted_run_goes_on_and_ends_equal(planted, whole, tmp_path, monkeypatch):
    done = []

    def interrupted(model, concept, *args, **options):
        if len(done) == 1:
            raise KeyboardInterrupt
        return counted(model, concept, *args, **options)

    def counted(model, concept, *args, **options):
        done.append(concept.name)
        return original(model, concept, *args, **options)

    original = mapping.map_concept
    monkeypatch.setattr(mapping, "map_concept", interrupted)
    with pytest.raises(KeyboardInterrupt):
        map_concepts(*planted, out=tmp_path / "atlas", **SETTINGS)
    assert not (tmp_path / "atlas" / "manifest.json").exists()
    monkeypatch.setattr(mapping, "map_concept", counted)
    resumed = map_concepts(*planted, out=tmp_path / "atlas", **SETTINGS)
    assert done == ["used", "absent", "degree", "corner"]
    assert timeless(resumed) == timeless(whole[0])


def test_finished_concepts_outlive_a_failure_to_write_the_atlas(planted, tmp_path, monkeypatch):
    model, concepts = planted
    some, options = ConceptSet("two", concepts.concepts[:2]), {**SETTINGS, "permutations": 40, "n_random": 5}

    def full_disk(self, folder):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Atlas, "save", full_disk)
        with pytest.raises(OSError, match="No space"):
            map_concepts(model, some, out=tmp_path / "atlas", **options)
    monkeypatch.setattr(mapping, "map_concept", None)  # nothing may be mapped again
    assert map_concepts(model, some, out=tmp_path / "atlas", **options).concepts[0].found


def test_another_seed_is_another_run_and_noise_and_int8_are_read(planted):
    model, concepts = planted
    one = ConceptSet("one", concepts.concepts[:1])
    settings = {**SETTINGS, "quick": False, "permutations": 30, "n_random": 5}
    first, second = (map_concepts(model, one, seed=seed, **settings) for seed in (0, 1))
    assert timeless(first) != timeless(second)
    depth = first.concepts[0].depth.data
    assert float(depth["quantised"][-1]) > 0.95 and float(depth["noised"][-1]) > 0.8
    assert first.concepts[0].depth.provenance.passes > 3 * 160


def test_an_encoder_without_logits_is_judged_by_its_last_layer():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    texts = tuple(
        " ".join(f"w{i}" for i in [*rng.integers(40, 80, rng.integers(3, 7)), rng.integers(0, 20) + 20 * label])
        for label in labels
    )
    concepts = ConceptSet(
        "last word",
        (
            Concept("last word", texts, labels, "binary", ("low", "high")),
            Concept("noise", texts, rng.permutation(labels), "binary", ("a", "b")),
        ),
    )
    atlas = map_concepts(other("bert"), concepts, **SETTINGS)
    found, noise = atlas.concepts
    assert not atlas.model["has_logits"] and np.isnan(atlas.geometry["causal"]).all()
    assert found.found and found.effect_kind == "shift of the last layer's readout, sd"
    assert found.effect > found.effect_control and np.isfinite(found.effect_interval).all()
    assert not noise.found


def test_what_cannot_work_is_said_before_anything_runs(planted, monkeypatch):
    model, concepts = planted
    monkeypatch.setattr(mapping, "map_concept", None)
    few = Concept("few", ("the red cat", "a dog", "one hen", "by hawk"), np.array([0, 1, 0, 1]), "binary", ("a", "b"))
    with pytest.raises(DataError, match="concept 'few': 4 groups are too few for 5 folds"):
        map_concepts(model, ConceptSet("x", (concepts.concepts[0], few)))
    long = " ".join(["the"] * 40)
    texts = (long, *concepts.concepts[0].texts[:9])
    with pytest.raises(DataError, match="concept 'long': row 0: 41 tokens are longer than the context"):
        map_concepts(model, ConceptSet("x", (Concept("long", texts, np.arange(10) % 2, "binary", ("a", "b")),)))


def test_few_groups_or_permutations_are_said(planted):
    model, concepts = planted
    used = concepts.concepts[0]
    groups = np.arange(40) % 10
    grouped = Concept("grouped", used.texts[:40], (groups % 2).astype(np.int64), "binary", ("even", "odd"), groups)
    made = map_concepts(model, ConceptSet("one", (grouped,)), **{**SETTINGS, "n_random": 3}).concepts[0]
    assert any("shuffled in only about" in warning for warning in made.warnings)
    assert few_permutations(200, 10) == () and few_permutations(19, 1) == ()
    assert "unless 2 are; give at least 1999 permutations" in few_permutations(1000, 100)[0]
