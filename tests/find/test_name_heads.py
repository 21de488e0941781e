"""Heads of the indirect-object circuit and copying heads: planted ones are found alone, decoys and null worlds are not."""

import numpy as np
import pytest
import torch

from conceptlab.data.indirect_objects import IndirectObjects, indirect_objects
from conceptlab.errors import InputError
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.naming import naming_of
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.model import load_model
from conceptlab.model.ov_circuit import ov_answers, ov_outputs, token_streams
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi

PLANTED = {"name-mover": {"L2.H0"}, "negative-name-mover": {"L2.H1"}, "s-inhibition": {"L1.H0"}}


def survey_of(world, *, seed=0, mute=None):
    """A survey of an indirect-object world; `mute` (layer, head) looks where it did and writes nothing."""
    model = load_model(world.model, tokenizer=world.tokenizer)
    if mute is not None:
        layer, head = mute
        with torch.no_grad():
            world.model.get_parameter(f"transformer.h.{layer}.attn.c_proj.weight")[32 * head : 32 * (head + 1)] = 0
    repeated = tuple(next(w for w in t.split() if t.split().count(w) == 2) for t in world.prompts["clean"])
    return HeadSurvey(model, seed=seed, names=IndirectObjects(world.prompts["clean"], world.answers["clean"], repeated))


def named(units):
    return {f"L{s.layer}.H{s.units[0]}" for s in units.top(99, q_max=0.05)}


def found_in(survey, names=tuple(PLANTED)):
    return find_heads(survey.model, list(names), survey=survey)


@pytest.mark.parametrize("seed", [11, 12])
def test_planted_heads_are_found_and_no_others(seed):
    survey = survey_of(ioi(seed=seed), seed=seed)
    found = found_in(survey)
    assert {name: named(units) for name, units in found.units.items()} == PLANTED and not found.skipped
    assert found.units["s-inhibition"].table.sizes["unit"] == 8  # heads of the movers' own layer come too late
    assert found.units["s-inhibition"].scores.provenance.settings["movers"] == ["L2.H0"]


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_a_world_without_such_heads_is_silent(seed):
    found = found_in(survey_of(ioi(seed=seed, null=True), seed=seed))
    assert not named(found.units["name-mover"]) and not named(found.units["negative-name-mover"])
    assert "no head of" in found.skipped["s-inhibition"]


def test_heads_that_look_and_write_nothing_are_not_listed():
    quiet = found_in(survey_of(ioi(seed=11), mute=(2, 0)), ["name-mover"])
    assert "L2.H0" not in named(quiet.units["name-mover"])
    quiet = found_in(survey_of(ioi(seed=11), mute=(1, 0)))
    assert "s-inhibition" in quiet.skipped or "L1.H0" not in named(quiet.units["s-inhibition"])


def test_the_score_is_the_direct_effect_on_the_logits():
    survey = survey_of(ioi(seed=11))
    naming = survey.naming
    direct = direct_logit(survey.model, naming.batch, naming.answer.tolist(), naming.repeated.tolist(), n_random=2)
    wanted = [float(direct["score"].sel(component=f"L{layer}.H{h}")) for layer in range(3) for h in range(4)]
    assert np.allclose(naming.for_answer().reshape(-1), wanted, atol=1e-4)


def test_the_direction_is_the_gradient_of_the_movers_odds():
    """Moving the stream along a head's own output changes the attention's log-odds as the score says, to first order."""
    from conceptlab.find.heads.s_inhibition_heads import s_inhibition
    from conceptlab.results import Edit, Site

    survey = survey_of(ioi(seed=11))
    naming, model = survey.naming, survey.model
    acts = model.capture(naming.batch, ["z"], positions="last")
    mean = acts.at("z", 1)[:, 0].mean(0)
    cut = Edit(Site("z", 1, (0,)), "set", value=mean[None, None], positions="last")

    def odds():
        pattern = model.capture(naming.batch, "pattern", positions="last")["pattern"][:, 2, 0].double().log()
        looked = pattern[torch.arange(len(pattern))[:, None], torch.from_numpy(naming.places)]
        return float((looked[:, 0] - looked[:, 1:].mean(1)).mean())

    whole = odds()
    with model.edited(cut):
        without = odds()
    assert s_inhibition(survey).score[1, 0] == pytest.approx(whole - without, rel=0.05)


def test_common_names_make_prompts_for_a_tokenizer_that_has_them():
    def one_token(word):
        return word in {"John", "Mary", "Tom", "Anna", "James", "Sarah"}

    prompts = indirect_objects(12, one_token=one_token, knows=lambda _: True, seed=3)
    first = [
        text.index(a) < text.index(r)
        for text, a, r in zip(prompts.texts, prompts.answers, prompts.repeated, strict=True)
    ]
    assert sum(first) == 6 and len({t.replace(a, "") for t, a in zip(prompts.texts, prompts.answers, strict=True)}) > 6
    for text, answer, repeated in zip(prompts.texts, prompts.answers, prompts.repeated, strict=True):
        assert text.count(answer) == 1 and text.count(repeated) == 2 and not text.endswith(" ")


def test_a_tokenizer_without_names_is_one_line_and_the_rest_goes_on():
    world = induction()
    model = load_model(world.model, tokenizer=world.tokenizer)
    with pytest.raises(InputError, match="0 of 58 common first names are single tokens .* HeadSurvey"):
        find_heads(model, ["name-mover"])
    found = find_heads(model, ["induction", "name-mover"])
    assert list(found.units) == ["induction"] and "HeadSurvey" in found.skipped["name-mover"]


def test_prompts_that_do_not_fit_are_one_line():
    world = ioi()
    model = load_model(world.model, tokenizer=world.tokenizer)
    with pytest.raises(InputError, match="row 0: 'Ada' must stand in the text once"):
        naming_of(model, IndirectObjects(("Ben and Cleo met Ben gave to",), ("Ada",), ("Ben",)))
    with pytest.raises(InputError, match="the prompts have 2 names"):
        naming_of(model, IndirectObjects(("Ben and Cleo met Ben gave to",), ("Cleo",), ("Ben",)))
    with pytest.raises(InputError, match="2 texts came with 1 answers"):
        IndirectObjects(("a", "b"), ("c",), ("d",))


@pytest.mark.parametrize(("null", "wanted"), [(False, {"L1.H0"}), (True, set())])
def test_copying_heads_are_read_off_the_weights(null, wanted):
    world = induction(null=null)
    found = find_heads(load_model(world.model, tokenizer=world.tokenizer), ["copying"])
    assert named(found.units["copying"]) == wanted


def test_the_ov_circuit_is_the_product_of_the_weights():
    world = induction()
    model, tokens = load_model(world.model, tokenizer=world.tokenizer), list(range(3, 15))
    streams = token_streams(model, tokens)
    block = world.model.transformer.h[1]
    normed = block.ln_1(streams.processed)
    for layer, outputs in ov_outputs(model, streams):
        if layer == 1:
            value = block.attn.c_attn.weight[:, 192:]
            for head in range(4):
                here = slice(24 * head, 24 * (head + 1))
                wanted = normed @ value[:, here] @ block.attn.c_proj.weight[here]
                assert torch.allclose(outputs[:, head], wanted, atol=1e-5)
    said = ov_answers(model, tokens, [range(6), range(6, 12)])
    assert said[1, 0].tolist() == [*range(6), *range(6)]
