"""Experts of the concepts of a labelled file: planted ones found a concept, shared texts read once, spans and groups respected."""

import numpy as np
import pytest
import torch

from conceptlab.data import Concept, ConceptSet
from conceptlab.errors import InputError
from conceptlab.find.cost import estimate_heads, estimate_neurons
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.find.neurons.concept_experts import labelled_concepts
from conceptlab.find.neurons.expert_neurons import pooled_responses
from conceptlab.find.neurons.find_neurons import by_concept, find_neurons
from conceptlab.find.neurons.survey import NeuronSurvey
from conceptlab.model import load_model
from conceptlab.worlds.concept_tree import CONCEPTS, concept_tree
from conceptlab.worlds.induction import induction

NAMES = CONCEPTS[:3]


def concepts_of(world, names=NAMES, **options):
    negatives = world.prompts["negative"]
    return ConceptSet("tree", tuple(
        Concept(name, (*world.prompts[name], *negatives), np.repeat([1, 0], [len(world.prompts[name]), len(negatives)]), "binary",
                ("no", "yes"), **options)
        for name in names
    ))  # fmt: skip


def loaded(world):
    return load_model(world.model, tokenizer=world.tokenizer)


@pytest.fixture(scope="module")
def planted():
    world = concept_tree(n_texts=12)
    return world, loaded(world)


def ranked(model, concepts, seed=0):
    labelled = labelled_concepts(concepts)
    survey = NeuronSurvey(model, seed=seed, labelled=labelled)
    return labelled, find_neurons(model, by_concept(["expert"], labelled), survey=survey)


def test_each_concept_has_a_ranking_and_shared_texts_are_read_once(planted):
    world, model = planted
    before = model.forwards
    labelled, found = ranked(model, concepts_of(world))
    assert len(labelled.texts) == 3 * 12 + len(set(world.prompts["negative"]))
    assert model.forwards - before == len(labelled.texts)  # one pass serves all concepts
    assert list(found.units) == [f"expert: {name}" for name in NAMES] and not found.skipped
    for name in NAMES:
        units, wanted = found.units[f"expert: {name}"], set(world.truth["experts"][name])
        top = {f"L{s.layer}.N{s.units[0]}" for s in units.top(len(wanted), q_max=0.05)}
        assert top == wanted and float(units.table["p"].min()) < 0.01
        assert units.scores.provenance.settings["prevalence"] == pytest.approx(12 / 60)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_neurons_and_shuffled_labels_have_none(seed):
    quiet = concept_tree(n_texts=12, seed=seed, null=True)
    _, found = ranked(loaded(quiet), concepts_of(quiet), seed)
    world, rng = concept_tree(n_texts=12, seed=seed), np.random.default_rng(seed)
    dealt = ConceptSet("dealt", tuple(
        Concept(c.name, c.texts, rng.permutation(c.labels), "binary", ("no", "yes")) for c in concepts_of(world)
    ))  # fmt: skip
    _, shuffled = ranked(loaded(world), dealt, seed)
    for units in (*found.units.values(), *shuffled.units.values()):
        assert int((units.table["q"] <= 0.05).sum()) <= 2


def test_classes_are_asked_one_by_one_and_graded_labels_refused(planted):
    world, model = planted
    texts = tuple(text for name in NAMES for text in world.prompts[name])
    kinds = Concept("kind", texts, np.repeat([0, 1, 2], 12), "classes", ("a", "b", "c"))
    size = Concept("size", texts, np.linspace(0, 1, len(texts)), "graded")
    labelled, found = ranked(model, ConceptSet("both", (kinds, size)))
    assert labelled.names == ("kind = a", "kind = b", "kind = c") and len(labelled.texts) == len(texts)
    assert list(found.units) == ["expert: kind = a", "expert: kind = b", "expert: kind = c"]
    assert "graded label has no positives" in found.skipped["expert: size"]
    with pytest.raises(InputError, match="graded label has no positives"):
        ranked(model, ConceptSet("graded", (size,)))


def test_a_span_is_all_that_is_read_of_a_text(planted):
    world, model = planted
    text = world.prompts[NAMES[0]][0]
    first = (0, len(text.split()[0]))
    spanned, _ = pooled_responses(model, [text, text], [first, None])
    values = model.capture([text], "mlp_post", positions="all")["mlp_post"]
    at = model.encode([text]).positions_of([first])[0]
    assert len(at) < len(values)
    assert torch.allclose(spanned[0], values[at].amax(0)) and torch.allclose(spanned[1], values.amax(0))


def test_rows_of_a_group_are_shuffled_together(planted):
    world, model = planted
    # labels at random, every text six times over: alone the copies make the null too narrow, together they count as one
    base = concepts_of(world, NAMES[:1]).concepts[0]
    rng = np.random.default_rng(0)
    labels = np.repeat(rng.permutation(base.labels[:20]), 6)
    texts, groups = tuple(np.repeat(base.texts[:20], 6).tolist()), np.repeat(np.arange(20), 6)
    found = []
    for given in (groups, None):
        units = ranked(
            model, ConceptSet("c", (Concept("copies", texts, labels, "binary", ("no", "yes"), groups=given),))
        )[1].units
        found.append(int((units["expert: copies"].table["q"] <= 0.05).sum()))
    assert found[0] <= 2 and found[1] >= 20


def test_estimates_count_what_is_run(planted):
    world, model = planted
    labelled = labelled_concepts(concepts_of(world))
    names = by_concept(["expert"], labelled)
    said = estimate_neurons(NeuronSurvey(model, labelled=labelled), names)
    assert said.forwards == len(labelled.texts) and said.seconds > 0 and said.bytes_peak > 1e6
    assert estimate_neurons(NeuronSurvey(model), ["enrichment"]).forwards == 0
    heads = loaded(induction())
    survey = HeadSurvey(heads, n_rows=8)
    expected = estimate_heads(survey, ["induction"])
    before = heads.forwards
    find_heads(heads, ["induction"], survey=survey)
    assert expected.forwards == round(heads.forwards - before)
    assert estimate_heads(survey, ["induction"], atlas=True).forwards > expected.forwards
