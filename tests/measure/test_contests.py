"""Two answers in one prompt: attribution adds up, the planted heads are named, and the curve turns where it was derived to."""

from functools import cache

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.measure.attribution.mechanism_contest import heads_for_fact, mechanism_contest
from conceptlab.measure.patching.attention_rescale import ALPHAS, Keyed, attention_rescale, same_keys
from conceptlab.model import load_model
from conceptlab.results import Site
from conceptlab.worlds.fact_and_copy import fact_and_copy

SUPPRESSOR = [Site("z", 2, (1,))]


@cache
def case(seed=5, null=False, score_sign=1, n=48):
    world = fact_and_copy(n_prompts=n, seed=seed, null=null, score_sign=score_sign)
    return world, load_model(world.model, tokenizer=world.tokenizer)


def answers(world):
    vocabulary = world.tokenizer.get_vocab()
    return world.answer_ids("conflict"), [vocabulary[w] for w in world.answers["counterfactual"]]


def contest(seed=5, null=False):
    world, model = case(seed, null, n=96)
    n = len(world.prompts["conflict"])
    roles = {"attribute": [[4]] * n, "subject": [[-2]] * n}
    facts = world.answers["conflict"]
    return world, mechanism_contest(
        model, world.prompts["conflict"], *answers(world), roles, groups=facts, n_random=500
    )


def rescaled(world, model, heads=SUPPRESSOR, neutral=True, **options):
    texts = world.prompts["conflict"]
    keys = [[4]] * len(texts)
    if neutral:
        options["neutral"] = Keyed(world.prompts["neutral"], keys)
    return attention_rescale(model, Keyed(texts, keys), heads, *answers(world), **{"n_random": 5, **options})


@pytest.mark.parametrize("seed", [5, 6])
def test_contributions_add_up_and_are_the_derived_ones(seed):
    world, found = contest(seed)
    assert found.data.attrs["gap"] < 1e-4
    table = found.data[["score", "q", "attention"]].to_dataframe()
    for name, stated in world.truth["heads"].items():
        assert table.loc[name, "score"] == pytest.approx(stated["direct"], abs=0.02)
        assert table.loc[name, "attention"] == pytest.approx(stated["attention"], abs=0.005)
    sure = set(table.index[table.q <= 0.05])
    assert {"L1.mlp", "L2.H0", "L2.H1"} <= sure and not {"L2.H2", "L0.H0", "embed"} & sure
    assert heads_for_fact(found) == ["L2.H1"]
    assert float(found["win_rate"]) == 0.0


def test_the_fact_rises_at_its_layer_and_the_copy_at_its_own():
    world, found = contest()
    rises = found["rises"].sel(role="last token")
    assert int(rises.sel(word="fact")) == 1 + world.truth["fact_layer"]
    assert int(rises.sel(word="counterfactual")) == 3
    assert (
        int(found["rises"].sel(role="subject", word="fact")) == -1
    )  # the head looks one back: only later words know S


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_a_null_world_has_no_heads_for_the_fact(seed):
    _, found = contest(seed, null=True)
    assert heads_for_fact(found) == [] and float(found["q"].min()) > 0.05
    assert (found["rises"].sel(role="last token").values == -1).all()


@pytest.mark.parametrize(("variant", "flips"), [("prob", "flips"), ("renormalised", "flips_renormalised")])
def test_the_win_rate_turns_where_it_was_derived_to(variant, flips):
    world, model = case()
    found = rescaled(world, model, variant=variant, n_random=2, neutral=False)
    turns = np.array([np.inf if turn is None else turn for turn in world.truth[flips]])
    assert found["score"].values == pytest.approx([(turns < alpha).mean() for alpha in ALPHAS])
    attention = {"prob": lambda a: 0.2 * a, "renormalised": lambda a: 0.2 * a / (0.8 + 0.2 * a)}[variant]
    assert found["attention"].values == pytest.approx([attention(a) for a in ALPHAS], rel=0.02)
    assert not found.provenance.warnings


def test_times_five_meets_its_bars_and_random_heads_do_nothing():
    world, model = case()
    found = rescaled(world, model, alphas=(1.0, 5.0), n_random=10).data
    unscaled, five = found.sel(alpha=1.0), found.sel(alpha=5.0)
    assert float(unscaled["score"]) == float(unscaled["flips"]) == 0.0 and float(unscaled["p"]) == 1.0
    assert float(five["flips"]) >= 0.70 and float(five["flips_control"]) <= 0.05
    assert float(five["neutral_change"]) <= 0.02 and float(five["p"]) <= 1 / 11 + 1e-9
    assert found.attrs["n_lost"] == 48


def test_the_copy_head_turned_up_favours_the_context_and_the_decoy_nothing():
    world, model = case()
    down = rescaled(world, model, [Site("z", 2, (0,))], alphas=(0.1, 5.0), n_random=2, neutral=False)
    assert down["score"].values.tolist() == [1.0, 0.0]  # without the copy c is at 0.6 - 1
    decoy = rescaled(world, model, [Site("z", 2, (2,))], alphas=(50.0,), n_random=2, neutral=False)
    assert float(decoy["score"][0]) == 0.0


def test_a_negative_score_turns_the_other_way_and_says_so():
    world, model = case(score_sign=-1)
    found = rescaled(world, model, variant="score", alphas=(1.0, 5.0), n_random=2, neutral=False)
    assert float(found["attention"][1]) < 0.05 < float(found["attention"][0])
    assert float(found["score"][1]) == 0.0
    assert len(found.provenance.warnings) == 1 and found.provenance.warnings[0].startswith(
        "direction: multiplying score by 5 lowered"
    )
    world, model = case()
    right = rescaled(world, model, variant="score", alphas=(5.0,), n_random=2, neutral=False)
    assert float(right["score"][0]) > 0.5 and not right.provenance.warnings


def test_rows_of_other_lengths_and_keys_are_grouped_and_give_the_same():
    world, model = case()
    texts = [text if i % 2 else f"so {text}" for i, text in enumerate(world.prompts["conflict"])]
    keys = [[4] if i % 2 else [-4] for i in range(len(texts))]
    found = attention_rescale(model, Keyed(texts, keys), SUPPRESSOR, *answers(world), alphas=(5.0,), n_random=1)
    every = [sorted(rows) for rows, _ in same_keys(model.encode(texts), keys)]
    assert every == [list(range(0, 48, 2)), list(range(1, 48, 2))]
    alone = rescaled(world, model, alphas=(5.0,), n_random=1, neutral=False)
    assert found["each"].values[0, 1::2].tolist() == alone["each"].values[0, 1::2].tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"variant": "logit"}, "no variant is called"),
        ({"heads": []}, "name one at least"),
        ({"heads": [Site("z", layer, (0, 1, 2, 3)) for layer in (0, 1)]}, "half at most"),
        ({"keys": [[4]] * 3}, "3 lists of key positions came for 48 texts"),
        ({"keys": [[]] * 48}, "give each text at least one"),
        ({"keys": [[40]] * 48}, "do not all exist"),
        ({"facts": "same"}, "share their first token"),
    ],
)
def test_a_wrong_request_is_one_clear_line(change, says):
    world, model = case()
    facts, others = answers(world)
    keyed = Keyed(world.prompts["conflict"], change.pop("keys", [[4]] * 48))
    facts = others if change.pop("facts", "") else facts
    with pytest.raises(InputError, match=says) as caught:
        attention_rescale(
            model, keyed, **{"heads": SUPPRESSOR, "answers": facts, "distractors": others, "n_random": 1, **change}
        )
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no role is called 'place'"):
        mechanism_contest(model, keyed.texts, *answers(world), {"attribute": [[4]] * 48}, looked_at="place")
