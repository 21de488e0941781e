"""Direct logit attribution: contributions add up on real architectures; the planted movers are found, the head that works through
them is not, although everything depends on it."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.attribution.direct_logit_neurons import direct_logit_neurons
from conceptlab.model import load_model
from conceptlab.model.components import component_sites, components, final_stream
from conceptlab.results import Edit, Scores
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.ioi import ioi
from tests.model.tiny import TEXTS, decoder

KINDS = ("gpt2", "llama", "gemma2", "gpt_neox", "olmo2", "cohere", "mixtral", "opt", "bloom", "granite", "falcon")
ANSWERS, DISTRACTORS = [20, 30, 40], [21, 31, 41]


@cache
def attributed(seed: int = 0, null: bool = False) -> Scores:
    world = ioi(seed=seed, null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    return direct_logit(model, world.prompts["clean"], world.answer_ids("clean"), world.answer_ids("swapped"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["head", "sublayer"])
def test_contributions_add_up_to_the_logits_before_the_cap(kind, by):
    model = decoder(kind)
    for wrong in (DISTRACTORS, None):
        found = direct_logit(model, TEXTS, ANSWERS, wrong, by=by, n_random=10)
        raw = logits_before_the_cap(model, TEXTS)
        want = raw[range(3), ANSWERS] - (0 if wrong is None else raw[range(3), wrong])
        np.testing.assert_allclose(
            found["each"].values.sum(1), want.numpy(), rtol=0, atol=1e-5 * float(want.abs().max())
        )
        assert found.data.attrs["residual"] < 1e-5


def logits_before_the_cap(model, texts):
    logits = model.logits(texts).double()
    cap = model.stack.softcap
    return logits if cap is None else cap * torch.atanh(logits / cap)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "olmo2"])
def test_a_norm_of_each_components_own_breaks_the_sum(kind):
    model = decoder(kind)
    acts = model.capture(TEXTS, component_sites(model, "head"))
    want = model.lens(final_stream(model, acts))
    shares = [model.lens(part).detach() for _, part in components(model, acts, "head")]
    own = torch.cat(shares, 1).sum(1)
    wrong = (own[range(3), ANSWERS] - own[range(3), DISTRACTORS]) - (
        want[range(3), ANSWERS] - want[range(3), DISTRACTORS]
    )
    assert float(wrong.detach().norm()) > 0.05 * float(
        (want[range(3), ANSWERS] - want[range(3), DISTRACTORS]).detach().norm()
    )


def test_the_movers_are_found_and_the_head_that_works_through_them_is_not():
    found = attributed()
    mover, negative, inhibition = (float(found["score"].sel(component=c)) for c in ("L2.H0", "L2.H1", "L1.H0"))
    assert mover > 9 and negative == pytest.approx(-0.3 * mover, rel=0.02)
    assert abs(inhibition) < 0.01
    table = found.data
    named = {str(c) for c, q, s in zip(table["component"].values, table["q"].values, table["score"].values, strict=True)
             if q <= 0.05 and abs(s) > 0.1}  # fmt: skip
    assert named == {"L2.H0", "L2.H1"}
    assert table.attrs["logit_diff"] == pytest.approx(7.01, abs=0.15) and table.attrs["share_right"] == 1.0
    low, high = (table[c].sel(component="L2.H0") for c in ("control_low", "control_high"))
    assert float(low) < float(table["control"].sel(component="L2.H0")) < float(high) < mover


def test_what_has_no_direct_effect_may_carry_everything():
    world = ioi()
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts, right, wrong = world.prompts["clean"], world.answer_ids("clean"), world.answer_ids("swapped")
    other = model.capture(world.prompts["swapped"], "z", layers=[1])["z"][:, 0, 0]
    with model.edited(Edit("L1.H0.z", "set", other[:, None], positions="last")):
        logits = model.logits(texts)
    after = logits[range(64), right] - logits[range(64), wrong]
    assert float(after.mean()) == pytest.approx(-6.98, abs=0.2)  # the whole effect, against a direct share of 0


def test_nothing_is_found_in_null_twins():
    for seed in range(5, 8):
        twin = attributed(seed, True)
        assert int((twin["q"].values <= 0.05).sum()) <= 1
        assert np.abs(twin["score"].values).max() < 0.05


def test_p_is_uniform_where_answers_are_random():
    model = decoder("llama")
    below = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        texts = [" ".join(f"w{i}" for i in rng.integers(0, 80, 5)) for _ in range(12)]
        right = rng.integers(10, 50, 12)
        found = direct_logit(model, texts, right, right + 40, pool=list(range(10, 90)), n_random=200, seed=seed)
        below.append((found["p"].values[found["p"].values < 1] <= 0.05).mean())
    assert np.mean(below) < 0.12


def test_rows_may_come_in_any_order_and_in_chunks():
    world = ioi(n_prompts=10)
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts, right, wrong = list(world.prompts["clean"]), world.answer_ids("clean"), world.answer_ids("swapped")
    one = direct_logit(model, texts, right, wrong, n_random=20, max_rows=3)
    two = direct_logit(model, texts[::-1], right[::-1], wrong[::-1], n_random=20)
    np.testing.assert_allclose(one["each"].values, two["each"].values[::-1], atol=1e-5)
    assert one.provenance.passes == two.provenance.passes == 10


def test_joining_neurons_are_found_among_all():
    world = boolean(gate="and", n_prompts=48)
    model = load_model(world.model, tokenizer=world.tokenizer)
    given = (world.prompts["clean"], world.answer_ids("clean"), world.answer_ids("key"))
    found = direct_logit_neurons(model, *given, top=8)
    assert {str(n) for n in found["neuron"].values} <= set(world.truth["neurons"])
    assert (found["p"].values <= 0.05).all() and (found["score"].values > 0).all()
    whole = direct_logit(model, *given, by="sublayer", n_random=10)
    every = direct_logit_neurons(model, *given, top=48)
    share = float(every["score"].sum())  # the MLP writes no bias here
    assert share == pytest.approx(float(whole["score"].sel(component=["L0.mlp", "L1.mlp"]).sum()), rel=1e-4)
    twin = boolean(gate="and", n_prompts=48, null=True)
    silent = direct_logit_neurons(load_model(twin.model, tokenizer=twin.tokenizer), *given)
    assert (silent["p"].values > 0.05).all()


@pytest.mark.parametrize(
    ("answers", "distractors", "says"),
    [
        ([20, 30], [21, 31], "2 answers came with 3 texts"),
        ([20, 30, 40], [20, 31, 41], "share their first token"),
        ([20, 30, 999], [21, 31, 41], "outside the vocabulary"),
        ([20, 30, 40], [21, 31], "distractors"),
    ],
)
def test_wrong_answers_are_told(answers, distractors, says):
    with pytest.raises(InputError, match=says):
        direct_logit(decoder(), TEXTS, answers, distractors)


@pytest.mark.parametrize(("kind", "says"), [("bitnet", "no projection reads z alone"), ("bert", "post-norm block")])
def test_what_cannot_be_split_is_a_named_error(kind, says):
    with pytest.raises(SiteError, match=says):
        direct_logit(decoder(kind), TEXTS, ANSWERS, DISTRACTORS)


def test_result_loads_equal(tmp_path):
    found = direct_logit(decoder(), TEXTS, ANSWERS, DISTRACTORS, n_random=10)
    found.save(tmp_path)
    again = Scores.load(tmp_path)
    assert again.data.equals(found.data) and again.provenance == found.provenance
