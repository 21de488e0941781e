"""Language neurons, the lens by language and MEXA: planted ones are found, near-duplicates and shuffled labels have none."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.find.neurons.language_neurons import exclusive_to, language_neurons
from conceptlab.measure.alignment.mexa import mexa, sentence_vectors
from conceptlab.measure.lenses.language_lens import language_lens
from conceptlab.model import load_model
from conceptlab.worlds.pivot_languages import ALONE, LANGUAGES, PIVOT, pivot_languages, words_of


def world_of(**options):
    world = pivot_languages(**options)
    return world, load_model(world.model, tokenizer=world.tokenizer), {name: world.prompts[name] for name in LANGUAGES}


@pytest.fixture(scope="module")
def planted():
    return world_of()


def names(sites):
    return {f"L{s.layer}.N{s.units[0]}" for s in sites}


@pytest.mark.parametrize("seed", [1, 2])
def test_planted_neurons_are_found_and_near_duplicates_have_none(seed):
    world, model, corpora = world_of(seed=seed)
    units = language_neurons(model, corpora, seed=seed)
    for name in ALONE:
        assert names(exclusive_to(units, name)) == set(world.truth["neurons"][name])
    assert not exclusive_to(units, LANGUAGES[4]) and not exclusive_to(units, LANGUAGES[5])
    both = units.table["member"].values & ~units.table["exclusive"].values
    layer, index = (units.table[name].values[both] for name in ("layer", "index"))
    assert {f"L{a}.N{b}" for a, b in zip(layer, index, strict=True)} == set(world.truth["neurons"][LANGUAGES[4]])


@pytest.mark.parametrize("seed", [1, 2])
def test_null_twins_and_shuffled_texts_have_none(seed):
    _, model, corpora = world_of(seed=seed, null=True)
    assert not language_neurons(model, corpora, seed=seed).table["member"].values.any()
    _, model, corpora = world_of(seed=seed)
    texts = np.random.default_rng(seed).permutation([t for some in corpora.values() for t in some])
    dealt = dict(zip(corpora, np.split(texts, len(corpora)), strict=True))
    found = language_neurons(model, {name: some.tolist() for name, some in dealt.items()}, seed=seed)
    assert not found.table["member"].values.any()


def test_rates_are_counts_of_tokens(planted):
    _, model, corpora = planted
    found = language_neurons(model, corpora, n_random=2)
    for k, name in enumerate(LANGUAGES[:2]):
        fired = (model.capture(list(corpora[name]), "mlp_pre", positions="all")["mlp_pre"] > 0).float().mean(0)
        assert np.allclose(found.table["fires"].values[:, k], fired.flatten(), atol=1e-6)
    p = found.table["fires"].values
    share = p / np.maximum(p.sum(1, keepdims=True), 1e-30)
    lape = -(share * np.log(np.maximum(share, 1e-30))).sum(1)
    fires = p.sum(1) > 0
    assert np.allclose(found.table["lape"].values[fires], lape[fires]) and fires.any()


def test_rare_neurons_would_win_without_the_bar(planted):
    _, model, corpora = planted
    table = language_neurons(model, corpora).table
    rare = (table["fires"].values.max(1) < 0.2) & (table["fires"].values.max(1) > 0)
    first = np.argsort(table["lape"].values + (table["fires"].values.max(1) == 0), kind="stable")[:20]
    assert rare[first].any() and not table["member"].values[rare].any()


def test_the_middle_speaks_the_pivot_and_the_end_the_texts_language(planted):
    world, model, _ = planted
    ids = world.tokenizer.get_vocab()
    words = {name: [ids[w] for w in words_of(name)] for name in ALONE[:2]} | {"pivot": [ids[w] for w in PIVOT]}
    lens = language_lens(model, list(world.prompts["beta"][:8]), words)
    middle, end = (lens["score"].sel(layer=layer) for layer in ("1", "2"))
    assert float(middle.sel(language="pivot")) > 0.7 > 0.1 > float(middle.sel(language="beta"))
    assert float(end.sel(language="beta")) > 0.7 > 0.1 > float(end.sel(language="pivot"))
    both = language_lens(model, list(world.prompts["beta"][:2]), {"a": [5, 6], "b": [6, 7]})
    assert both["language"].values.tolist() == ["a", "b", "shared"]
    logits = model.logits(list(world.prompts["beta"][:8]), positions="all").softmax(-1)
    assert float(end.sel(language="beta")) == pytest.approx(float(logits[:, words["beta"]].sum(1).mean()), abs=1e-5)


def test_translations_lie_closest_and_other_orders_do_not(planted):
    world, model, _ = planted
    sides = [list(world.prompts[f"parallel {name}"]) for name in ALONE[:2]]
    found = mexa(model, *sides)
    assert float(found["score"].sel(layer="embed")) > 0.9 and float(found["score"].sel(layer="1")) > 0.5
    assert float(found["control"].max()) < 0.05
    again = mexa(model, sides[0], sides[0])
    assert float(again["score"].sel(layer="1")) == 1.0
    vectors = sentence_vectors(model, sides[0][:2])
    streams = model.capture(sides[0][:1], "resid_post", layers=[1], positions="all").at("resid_post", 1).double()
    mean = (streams * torch.arange(1, len(streams) + 1)[:, None]).sum(0)
    assert torch.allclose(vectors[0, 2], mean / mean.norm(), atol=1e-6)


def test_wrong_requests_are_one_line(planted):
    _, model, corpora = planted
    with pytest.raises(InputError, match="1 languages came"):
        language_neurons(model, {"alpha": corpora["alpha"]})
    with pytest.raises(InputError, match="1 of them with fewer than two texts"):
        language_neurons(model, {"alpha": corpora["alpha"], "beta": corpora["beta"][:1]})
    with pytest.raises(InputError, match="needs at least one token id"):
        language_lens(model, list(corpora["alpha"][:1]), {"alpha": []})
    with pytest.raises(InputError, match="outside the vocabulary"):
        language_lens(model, list(corpora["alpha"][:1]), {"alpha": [10_000]})
    with pytest.raises(InputError, match="no list of pairs"):
        mexa(model, list(corpora["alpha"][:4]), list(corpora["beta"][:3]))
