"""Retrieval heads: those that copy come first, a head that only looks scores alike and does nothing, and noise is not found."""

import numpy as np
import pytest

from conceptlab.data.needles import given_needles, hide_needles
from conceptlab.errors import InputError
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.retrieval_heads import look, retrieval_heads, retrieval_scores
from conceptlab.model import load_model
from conceptlab.worlds.haystack import haystack, needles_of
from conceptlab.worlds.induction import induction

COPY = {"L3.H0", "L3.H1", "L4.H0"}


def made(**options):
    world = haystack(n_needles=12, **options)
    model = load_model(world.model, tokenizer=world.tokenizer)
    return model, hide_needles(model, needles_of(world), world.prompts["filler"][0], lengths=[64], depths=[0, 0.5, 1])


def named(units):
    return {f"L{s.layer}.H{s.units[0]}" for s in units.top(99, q_max=0.05)}


@pytest.mark.parametrize("seed", [20, 21])
def test_heads_that_copy_are_found_and_no_others(seed):
    model, stacks = made(seed=seed)
    units = retrieval_heads(model, stacks, seed=seed)
    assert named(units) == COPY and units.scores.provenance.settings["answered right"] == 36
    best = units.table.sel(unit=np.argsort(-units.table["score"].values)[:3])
    assert np.allclose(best["score"], 5 / 6) and (best["active"] == 1).all()  # the name itself is not copied
    assert (units.table["control"] < 0.1).all()


def test_a_head_that_looks_alike_scores_alike():
    model, stacks = made(seed=22, twin=True)
    assert named(retrieval_heads(model, stacks)) == COPY | {"L5.H0"}


@pytest.mark.parametrize("seed", [23, 24, 25, 26])
def test_what_is_known_by_heart_is_not_retrieved(seed):
    model, stacks = made(seed=seed, null=True)
    units = retrieval_heads(model, stacks, seed=seed)
    assert units.scores.provenance.settings["answered right"] == 36  # right, and from memory
    assert not named(units) and units.table["score"].max() < 0.1


def test_the_score_is_what_one_counts_by_hand():
    model, stacks = made(seed=27)
    looked = look(model, stacks)
    assert looked.decoded.keys is not None
    found = looked.copied()
    for row in (0, 17):
        (start, stop), ids = stacks.spans[row], stacks.batch.ids[row]
        for layer, head in ((3, 0), (0, 2), (5, 1)):
            places = set()
            for step, token in enumerate(looked.decoded.ids[row].tolist()):
                at = int(looked.decoded.keys[row, step, layer, head])
                if start <= at < stop and ids[at] == token:
                    places.add(at)
            assert found[row, layer, head] == pytest.approx(len(places) / (stop - start))


def test_the_detector_finds_the_head_of_the_specification():
    world = induction()
    model = load_model(world.model, tokenizer=world.tokenizer)
    units = find_heads(model, ["retrieval"]).units["retrieval"]
    assert named(units) == {"L1.H0"} and units.table["score"].max() == pytest.approx(5 / 6)


@pytest.mark.parametrize("null", [False, True])
def test_the_detector_on_random_words(null):
    model, _ = made(seed=28, null=null)
    if null:
        with pytest.raises(InputError, match="none of 32 prompts was answered right"):
            find_heads(model, ["retrieval"])
        assert "none of 32" in find_heads(model, ["previous-token", "retrieval"]).skipped["retrieval"]
    else:
        assert named(find_heads(model, ["retrieval"]).units["retrieval"]) == COPY


def test_nothing_to_compare_is_one_line():
    model, _ = made(seed=29)
    stacks = given_needles(model, ["Ada bell the road Ada"], ["bell"], ["bell"])
    with pytest.raises(InputError, match="one token, which leaves nothing to compare"):
        retrieval_scores(look(model, stacks))
