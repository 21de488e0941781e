"""CD-T scores and phrases: planted numbers, the blind spot beside the true effect, decoys at 0, nothing on null twins."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.attribution.contextual_decomposition import contextual_decomposition
from conceptlab.measure.attribution.phrase_relevance import phrase_relevance, rank_phrases
from conceptlab.model import load_model
from conceptlab.model.metric import log_prob, logit, logit_diff
from conceptlab.model.split_rules import RULES
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.saturated_phrase import N_TOKENS, saturated_phrase

N = 16
FAMILIES = {"ioi": ("swapped", "distinct"), "induction_hard": ("key", "key")}


def scored(world, **options):
    model = load_model(world.model, tokenizer=world.tokenizer)
    other, reference = FAMILIES[world.name]
    metric = logit_diff(world.answer_ids("clean")[:N], world.answer_ids(other)[:N])
    return contextual_decomposition(
        model, world.prompts["clean"][:N], metric, reference=world.prompts[reference], **options
    )


@cache
def ioi_scores(rule="fixed", seed=10, null=False):
    return scored(ioi(seed=seed, null=null), rule=rule, seed=seed)


def at(scores, sender, name="score", receiver=None):
    found = scores[name].sel(sender=sender)
    return float(found if receiver is None else found.sel(receiver=receiver))


@pytest.mark.parametrize("rule", ["fixed", "relevant"])
def test_the_movers_score_what_is_known_and_their_ratio_is_that_of_the_weights(rule):
    scores = ioi_scores(rule)
    assert at(scores, "L2.H0") == pytest.approx(9.9, abs=0.3)
    assert at(scores, "L2.H1") / at(scores, "L2.H0") == pytest.approx(-0.3, abs=0.01)
    assert at(scores, "L2.H0", "control") < 1.0
    found = set(scores.data["sender"].values[scores["q"].values <= 0.05])
    assert found == {"L2.H0", "L2.H1"}


@pytest.mark.parametrize("rule", ["fixed", "relevant"])
def test_the_blind_spot_is_said_with_numbers_and_the_edge_is_seen(rule):
    scores = ioi_scores(rule)
    for head in ("L0.H0", "L1.H0"):
        assert abs(at(scores, head)) < 0.01 and at(scores, head, "removal") > 8.0
    assert at(scores, "L1.H0", "share", "L2.H0.q") == pytest.approx(0.5, abs=0.05)
    assert at(scores, "L1.H0", "edge_q", "L2.H0.q") <= 0.05
    assert at(scores, "L1.H0", "share", "L2.H0.k") < 1e-3 and at(scores, "L1.H0", "share", "L2.H0.v") < 1e-3
    (warning,) = scores.provenance.warnings
    assert "L1.H0 (score +0.000, removal +9." in warning and "removal'" in warning


def test_the_published_rule_spreads_a_routed_value_evenly():
    fixed, relevant = (at(ioi_scores(rule), "L0.H0", "share", "L2.H0.q") for rule in ("fixed", "relevant"))
    assert relevant < 0.5 * fixed


@pytest.mark.parametrize("gate", ["or", "and", None])
def test_the_removal_rule_is_the_effect_of_removal(gate):
    world = ioi(seed=10) if gate is None else boolean(gate=gate, seed=10)
    model = load_model(world.model, tokenizer=world.tokenizer)
    metric = logit(world.answer_ids("clean")[:N])
    scores = contextual_decomposition(
        model, world.prompts["clean"][:N], metric, reference=world.prompts["clean"], rule="removal", n_random=0
    )
    heads = [s for s in scores.data["sender"].values if s != "embed"]
    found, wanted = (np.array([at(scores, s, name) for s in heads]) for name in ("score", "removal"))
    np.testing.assert_allclose(found, wanted, atol=5e-3)
    assert np.abs(wanted).max() > 1
    assert not scores.provenance.warnings


def test_scores_of_the_fixed_rule_add_up():
    world = ioi(seed=10)
    model = load_model(world.model, tokenizer=world.tokenizer)
    metric = logit_diff(world.answer_ids("clean")[:N], world.answer_ids("swapped")[:N])
    scores = contextual_decomposition(model, world.prompts["clean"][:N], metric, n_random=0)
    last = [s for s in scores.data["sender"].values if s.startswith("L2")]
    # nothing but the last layer's heads writes what the unembedding reads, except noise of 0.03
    assert sum(at(scores, s) for s in last) == pytest.approx(scores.data.attrs["metric"], abs=0.1)


def test_decoys_are_exactly_nothing():
    scores = scored(induction(seed=10), seed=10)
    for decoy in ("L0.H1", "L0.H2"):
        assert at(scores, decoy) == 0.0
        assert np.nan_to_num(scores["share"].sel(sender=decoy).values).max() == 0.0
        assert at(scores, decoy, "p") == 1.0
    assert at(scores, "L1.H0", "q") <= 0.05


@pytest.mark.parametrize("build", [ioi, induction])
def test_null_twins_have_no_source(build):
    found, tried, worlds = 0, 0, 0
    for seed in range(10, 15):
        scores = scored(build(seed=seed, null=True), seed=seed)
        found, tried = found + int((scores["p"].values <= 0.05).sum()), tried + len(scores["p"])
        worlds += bool((scores["q"].values <= 0.05).any())
    assert found / tried <= 0.1 and worlds <= 1  # of five


def test_pairs_and_batches_do_not_matter():
    world = ioi(seed=10)
    options = {"n_random": 3, "seed": 1, "against": "paired"}
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts, other = list(world.prompts["clean"][:4]), list(world.prompts["swapped"][:4])
    texts[1], other[1] = f"{texts[1]} to", f"{other[1]} to"  # one row is longer
    metric = logit_diff(world.answer_ids("clean")[:4], world.answer_ids("swapped")[:4])
    one = contextual_decomposition(model, texts, metric, reference=other, batch=3, **options)
    two = contextual_decomposition(model, texts, metric, reference=other, batch=64, **options)
    for name in ("score", "control", "share", "removal"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-4)
    # clean against its own partner: each mover's difference, in units of the whole drop
    assert at(two, "L2.H0") == pytest.approx(2 * 9.9, abs=1.0)


def test_costs_are_counted():
    settings = ioi_scores().provenance.settings
    # one forward for each part: 6 senders that start in block 0, 5 in block 1, 5 in block 2 of 3
    assert settings["forwards"] / N == pytest.approx(2 * (6 + 5 * 2 / 3 + 5 / 3))
    assert settings["control_forwards"] == pytest.approx(8 * settings["forwards"])
    assert settings["sum_error"] < 1e-5


def test_impossible_requests():
    world = ioi(seed=10)
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts, ids = world.prompts["clean"][:2], world.answer_ids("clean")[:2]
    with pytest.raises(InputError, match="use logit or logit_diff"):
        contextual_decomposition(model, texts, log_prob(ids))
    with pytest.raises(InputError, match="no attention rule"):
        contextual_decomposition(model, texts, logit(ids), rule="exact")
    with pytest.raises(InputError, match="at least 3"):
        contextual_decomposition(model, texts, logit(ids), n_random=1)
    with pytest.raises(InputError, match="row by row"):
        contextual_decomposition(model, texts, logit(ids), reference=["Ada"], against="paired")
    with pytest.raises(InputError, match="no reference text has"):
        contextual_decomposition(model, texts, logit(ids), reference=["Ada"])
    with pytest.raises(InputError, match="does not exist"):
        phrase_relevance(model, texts, [(0, 3, 99)], logit(ids))


@cache
def phrases(saturated=True, null=False, seed=10):
    world = saturated_phrase(saturated=saturated, null=null, seed=seed, n_prompts=N)
    model = load_model(world.model, tokenizer=world.tokenizer)
    metric = logit_diff(world.answer_ids("clean"), world.answer_ids("other"))
    spans = [(row, start, stop) for row, (start, stop) in enumerate(world.truth["phrases"])]
    first, _ = rank_phrases(model, world.prompts["clean"], spans, metric)
    return first, phrase_relevance(model, world.prompts["clean"], spans, metric, seed=seed)


def test_a_planted_phrase_ranks_first_where_gradients_see_nothing():
    first, _ = phrases()
    assert first["score"].all() and first["gradient"].mean() <= 0.1
    assert first["chance"] == pytest.approx(1 / (N_TOKENS - 3))
    assert phrases(saturated=False)[0]["gradient"].all()  # without saturation both see it


def test_phrases_stand_beside_random_spans_and_null_twins_are_silent():
    scores = phrases()[1]
    assert scores["score"].values.mean() == pytest.approx(10.0, abs=0.1)
    assert scores["control"].values.mean() < 2.0
    assert scores["p"].values.max() <= 0.15  # one in as many as the text has other spans
    first, null = phrases(null=True)
    assert first["score"].mean() <= 0.3 and np.abs(null["score"].values).max() < 0.1


@pytest.mark.parametrize("rule", RULES)
def test_gradient_x_input_is_that_of_autograd(rule):
    from tests.model.tiny import decoder

    model, spans = decoder("llama"), [(0, 0, 2), (1, 3, 4)]
    texts, ids = ["w20 w31 w42", "w33 w24 w15 w46 w57"], torch.tensor([11, 12])
    scores = phrase_relevance(model, texts, spans, logit(ids), rule=rule)
    for (row, start, stop), found in zip(spans, scores["gradient"].values, strict=True):
        embedded = (
            model.module.get_input_embeddings()(torch.tensor([model.encode(texts).ids[row]])).detach().requires_grad_()
        )
        model.module(inputs_embeds=embedded).logits[0, -1, ids[row]].backward()
        assert found == pytest.approx(float((embedded.grad * embedded.detach())[0, start:stop].sum()), rel=1e-4)
