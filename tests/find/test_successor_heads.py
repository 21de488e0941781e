"""The successor detector: the planted head is found, what only looks like it is told apart, and merged families are named."""

import numpy as np
import pytest
import torch

from conceptlab.data.ordinals import FAMILIES, ordinals_in
from conceptlab.errors import InputError
from conceptlab.find.heads.find_heads import find_heads
from conceptlab.find.heads.successor_heads import counting_on, succession
from conceptlab.find.heads.survey import HeadSurvey
from conceptlab.measure.effects.head_losses import head_losses
from conceptlab.measure.probing.modular_features import residue_probe, residue_swap
from conceptlab.model import load_model
from conceptlab.worlds.successor import successor


def model_of(**options):
    world = successor(**options)
    return load_model(world.model, tokenizer=world.tokenizer)


def named(units):
    return {f"L{s.layer}.H{s.units[0]}" for s in units.top(99, q_max=0.05)}


@pytest.mark.parametrize(("null", "wanted"), [(False, {"L1.H0"}), (True, set())])
@pytest.mark.parametrize("seed", [21, 22])
def test_the_planted_head_is_found_and_no_other(seed, null, wanted):
    found = find_heads(model_of(seed=seed, null=null), ["successor"], seed=seed)
    assert named(found.units["successor"]) == wanted
    assert "letters: 0 of 26 words are single tokens" in found.units["successor"].scores.provenance.warnings


def test_the_world_counts_on_and_its_first_mlp_is_needed():
    world = successor(seed=21)
    model = load_model(world.model, tokenizer=world.tokenizer)
    right = model.logits(world.prompts["series"]).argmax(-1) == torch.tensor(world.answer_ids("series"))
    assert right.float().mean() == world.truth["accuracy"]
    ordinals = HeadSurvey(model).ordinals
    assert succession(model, ordinals)["score"].values[1, 0].tolist() == [world.truth["succession"]] * 3
    world.model.get_parameter("transformer.h.0.mlp.c_proj.weight").data.zero_()
    plain = succession(model, ordinals)["score"].sel(family="numbers").values[1, 0]
    assert plain == pytest.approx(world.truth["without_mlp"])


def test_copying_and_going_back_are_no_succession():
    model = model_of(seed=21)
    table = succession(model, HeadSurvey(model).ordinals)
    assert (table["score"].values[1, 1:3] <= 0.1).all()
    assert (table["copy"].values[1, 1] == 1.0).all() and (table["back"].values[1, 2, 1:] == 1.0).all()


def test_weights_that_look_elsewhere_are_found_and_ablation_tells():
    model = model_of(seed=21, decoy=True)
    survey = HeadSurvey(model, seed=21)
    found = find_heads(model, ["successor"], survey=survey)
    assert named(found.units["successor"]) == {"L1.H0", "L1.H3"}
    asked = counting_on(survey)
    losses = head_losses(model, asked.batch, asked.metric)
    assert losses["q"].values[1, 0] <= 0.05 and losses["score"].values[1, 0] > 3
    assert losses["q"].values[1, 3] > 0.5 and abs(losses["score"].values[1, 3]) < 0.01


def test_losses_of_heads_are_plain_mean_ablation():
    from conceptlab.results import Edit, Site

    model = model_of(seed=21)
    asked = counting_on(HeadSurvey(model, seed=21))
    losses = head_losses(model, asked.batch, asked.metric)
    mean = model.capture(asked.batch, "z", positions="all", layers=[1])["z"].mean(0)[0, 0]

    def value():
        logits = model.logits(asked.batch)
        return asked.metric.of(logits, torch.arange(len(asked.batch))).mean()

    clean = value()
    with model.edited(Edit(Site("z", 1, (0,)), "mean", value=mean[None])):
        cut = value()
    assert losses["score"].values[1, 0] == pytest.approx(float(clean - cut), abs=1e-4)
    assert losses.data.attrs["clean"] == pytest.approx(float(clean), abs=1e-5)
    assert losses["control"].values[1, 0] == pytest.approx(np.delete(losses["score"].values.ravel(), 4).mean())


def test_the_last_digit_is_a_feature_and_nine_is_none():
    model = model_of(seed=21)
    ordinals = HeadSurvey(model).ordinals
    at = list(ordinals.families["numbers"])
    tokens, numbers = [ordinals.tokens[i] for i in at], ordinals.rank[at]
    probed = residue_probe(model, tokens, numbers, seed=21)
    assert probed["score"].sel(modulus=10) >= 0.95 and probed["q"].sel(modulus=10) <= 0.15
    assert probed["score"].sel(modulus=9) <= probed["chance"].sel(modulus=9) + 0.05
    swapped = residue_swap(model, (1, 0), tokens, numbers, seed=21)
    assert swapped["score"].sel(modulus=10) >= 0.95 and swapped["control"].sel(modulus=10) <= 0.2
    assert swapped["score"].sel(modulus=9) <= 0.2
    assert residue_swap(model, (1, 1), tokens, numbers, seed=21)["score"].sel(modulus=10) <= 0.2  # a copier
    with pytest.raises(InputError, match="no L7.H0"):
        residue_swap(model, (7, 0), tokens, numbers)
    with pytest.raises(InputError, match="at least 50 for residues modulo 10"):
        residue_probe(model, tokens[:20], numbers[:20])


def test_families_take_the_form_with_most_members_and_the_rest_is_named():
    vocabulary = {f"Ġ{n}": n for n in range(10)} | {day.lower(): 20 + i for i, day in enumerate(FAMILIES["days"])}
    vocabulary |= {"7": 40, "one": 41, "two": 42}
    found = ordinals_in(vocabulary)
    assert list(found.families) == ["numbers", "days"] and found.tokens[:10] == tuple(range(10))
    assert found.following.tolist() == [*range(1, 10), -1, *range(1, 7), -1]
    assert found.runs("days", 6) == [list(range(10, 16)), list(range(11, 17))]
    assert "number words: 2 of 20 words are single tokens" in found.left_out
    with pytest.raises(InputError, match="numbers: 3 of 201 .* 7 members are needed"):
        ordinals_in({"1": 0, "2": 1, "3": 2}, name="the tokenizer of X")
