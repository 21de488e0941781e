"""Detectors of heads: planted heads come first, decoys only where they look alike, and worlds without any stay silent."""

import pytest

from conceptlab.errors import InputError
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.model import load_model
from conceptlab.worlds.induction import induction

PLANTED = {"previous-token": {"L0.H0", "L0.H1"}, "duplicate-token": {"L0.H2"}, "induction": {"L1.H0"}}


def model_of(*, null=False):
    world = induction(null=null)
    return load_model(world.model, tokenizer=world.tokenizer)


def named(units):
    return {f"L{s.layer}.H{s.units[0]}" for s in units.top(99, q_max=0.05)}


@pytest.fixture(scope="module")
def found():
    return find_heads(model_of(), list(PLANTED))


@pytest.mark.parametrize("name", PLANTED)
def test_planted_heads_are_found_and_no_others(found, name):
    assert named(found.units[name]) == PLANTED[name]
    assert found.units[name].table.sizes["unit"] == 8 and not found.skipped


@pytest.mark.parametrize("seed", range(3))
def test_a_world_without_such_heads_is_silent(seed):
    quiet = find_heads(model_of(null=True), list(PLANTED), seed=seed)
    assert [named(units) for units in quiet.units.values()] == [set()] * 3


def test_random_words_are_run_once_for_all_detectors():
    model = model_of()
    survey = HeadSurvey(model)
    find_heads(model, list(PLANTED), survey=survey)
    rows = survey.n_rows * (1 + len(survey.said_once))
    before = model.forwards
    find_heads(model, list(PLANTED), survey=survey)
    assert before == rows and model.forwards == rows


def test_attention_by_lag_is_what_the_patterns_say():
    model = model_of()
    survey = HeadSurvey(model, n_rows=4)
    batch = survey.said_twice
    patterns = model.capture(batch, "pattern", positions="all")["pattern"].unflatten(
        0, (4, -1)
    )  # row, query, layer, head, key
    start = len(survey.prefix) + survey.n
    for lag in (1, survey.n - 1, survey.n):
        wanted = sum(
            patterns[:, q, :, :, q - lag] for q in range(start, start + survey.n) if q - lag >= len(survey.prefix)
        )
        assert abs(survey.by_lag(batch)[..., lag] - (wanted.mean(0) / survey.n).numpy()).max() < 1e-6


def test_an_unknown_detector_is_one_line():
    with pytest.raises(InputError, match="no detector is called mind-reading; the detectors are previous-token"):
        find_heads(model_of(), ["mind-reading"])


def test_a_tokenizer_without_words_is_one_line():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({}, unk_token=None)))
    model = load_model(induction().model, tokenizer=empty)
    with pytest.raises(InputError, match="has no words"):
        find_heads(model, ["induction"])
