"""Token Lens and the knock-out read at MLP outputs: spans add up, planted sources are found, permuted and random ones are not."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.lenses.mlp_response import mlp_response
from conceptlab.measure.lenses.token_lens import token_lens
from conceptlab.model import load_model
from conceptlab.model.batch import Batch
from conceptlab.model.spans import complete_spans, random_spans
from conceptlab.results import Scores
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.ioi import ioi
from tests.model.tiny import TEXTS, decoder

KINDS = ("gpt2", "llama", "gemma2", "gpt_neox", "olmo2", "cohere", "mixtral", "opt", "granite")
SPANS = {"a": [[0], [1, 2], [2]], "b": [[], [4], [1]]}
TARGETS = [[20, 22], [30, 33], [40, 44]]


@pytest.mark.parametrize("kind", KINDS)
def test_spans_add_up_to_the_heads_of_direct_attribution(kind):
    model = decoder(kind)
    found = token_lens(model, TEXTS, SPANS, TARGETS, per_head=True, n_random=3)
    heads = direct_logit(model, TEXTS, [t[0] for t in TARGETS], n_random=5)
    for layer in range(model.n_layers):
        want = sum(heads["each"].sel(component=f"L{layer}.H{h}").values for h in range(model.n_heads))
        got = found["each"].sel(layer=layer, target="0").sum("span").values
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_allclose(found["heads"].sum("head").values, found["score"].values, atol=1e-6)


def test_a_span_of_everything_is_the_whole_update_and_rows_may_be_cut():
    model = decoder()
    whole = {"all": [list(range(len(row))) for row in model.encode(TEXTS).ids]}
    one = token_lens(model, TEXTS, whole, TARGETS, n_random=0)
    assert [str(s) for s in one["span"].values] == ["all"]
    acts = model.capture(TEXTS, ["attn_out", "resid_post"])
    from conceptlab.model.frozen_end import freeze_end

    directions = freeze_end(model, acts.at("resid_post", 1)).directions(torch.tensor(TARGETS))
    want = torch.einsum("rld,rtd->rlt", acts["attn_out"].double(), directions)  # a Llama has no bias here
    np.testing.assert_allclose(one["each"].values[:, :, 0], want.numpy(), atol=1e-6)
    two = token_lens(model, TEXTS[::-1], {"all": whole["all"][::-1]}, TARGETS[::-1], n_random=0, max_rows=1)
    np.testing.assert_allclose(two["each"].values[::-1], one["each"].values, atol=1e-6)


@cache
def movers(null: bool = False, seed: int = 0):
    world = ioi(seed=seed, null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    batch, right, wrong = model.encode(world.prompts["clean"]), world.answer_ids("clean"), world.answer_ids("swapped")
    spans = {
        "IO": [[ids.index(a)] for ids, a in zip(batch.ids, right, strict=True)],
        "S1": [[ids.index(a)] for ids, a in zip(batch.ids, wrong, strict=True)],
        "S2": [[5]] * len(batch),
    }
    targets = list(zip(right, wrong, strict=True))
    return token_lens(model, batch, spans, targets, target_names=["IO", "S"])


def test_only_the_indirect_object_brings_its_name():
    found = movers()
    brought = found["score"].sel(layer=2, target="IO")
    assert float(brought.sel(span="IO")) == pytest.approx(7.0, abs=0.1)
    assert np.abs(brought.drop_sel(span="IO").values).max() < 0.05
    assert float(found["q"].sel(layer=2, span="IO", target="IO")) <= 0.05
    # permuted values destroy the contrast: a seventh of it is left at the place, spread over all names
    assert float(found["control"].sel(layer=2, span="IO", target="IO")) < 0.25 * 7
    assert (found["total_rank"].sel(span="IO", target="IO").values == 1).all()
    assert found["total_rank"].sel(span="S2", target="IO").values.mean() > 5


def test_null_twins_bring_next_to_nothing():
    for seed in range(5, 8):
        assert np.abs(movers(True, seed)["score"].values).max() < 0.03


def test_p_is_uniform_where_positions_are_exchangeable():
    """At layer 0 of random texts no position's value is special."""
    model, below = decoder("llama"), []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        texts = [" ".join(f"w{i}" for i in rng.integers(0, 80, 8)) for _ in range(16)]
        targets = rng.integers(10, 90, (16, 3))
        found = token_lens(model, texts, {"a": [[2]] * 16, "b": [[4, 5]] * 16}, targets, n_random=40, seed=seed)
        below.append((found["p"].sel(layer=0, span=["a", "b"]).values <= 0.05).mean())
    assert np.mean(below) < 0.12


@cache
def gated(null: bool = False):
    """Induction heads bring the follower's word, which the last MLP turns into the answer."""
    world = boolean(gate="or", null=null)
    model = load_model(world.model, tokenizer=world.tokenizer)
    batch = model.encode(world.prompts["clean"])
    follower = [[ids.index(a)] for ids, a in zip(batch.ids, world.answer_ids("clean"), strict=True)]
    other = [[1 + (f[0] + 2) % 8] for f in follower]
    return mlp_response(
        model,
        batch,
        {"follower": follower, "other": other},
        [[a] for a in world.answer_ids("clean")],
        target_names=["answer"],
    )


def test_the_mlp_answers_to_the_followers_token_alone():
    found = gated()
    effect = found["score"].sel(layer=1, kind="mlp", target="answer")
    full = float(found["full"].sel(layer=1, kind="mlp", target="answer"))
    assert float(effect.sel(span="follower")) > 0.95 * full > 5
    assert abs(float(effect.sel(span="other"))) < 0.05 * full
    assert float(found["control"].sel(layer=1, kind="mlp", span="follower", target="answer")) < 0.05 * full
    assert float(found["q"].sel(layer=1, kind="mlp", span="follower", target="answer")) <= 0.05
    assert float(found["final_delta"].sel(span="follower").mean()) > 0.95 * full
    assert np.abs(found["final_delta_control"].sel(span="follower").values).mean() < 0.05 * full
    assert found.provenance.causal == "ablation"


def test_a_null_twins_mlp_answers_to_nothing():
    found = gated(True)
    assert (found["q"].values > 0.05).all() and np.abs(found["score"].values).max() < 0.1


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "gpt_neox", "olmo2"])
def test_a_knock_out_is_what_an_edited_run_says(kind):
    from conceptlab.results import Edit

    model = decoder(kind)
    found = mlp_response(model, TEXTS[1], {"a": [[1, 2]]}, [[20, 22]], n_random=1)
    with model.edited(*(Edit(f"L{i}.pattern", "zero", positions="last", keys=(1, 2)) for i in range(model.n_layers))):
        without = model.logits(TEXTS[1])
    want = (model.logits(TEXTS[1]) - without)[0, [20, 22]]
    np.testing.assert_allclose(found["final_delta"].values[0, 0], want.numpy(), atol=1e-5)
    masked = mlp_response(model, TEXTS[1], {"a": [[1, 2]]}, [[20, 22]], n_random=0, variant="mask")
    assert not np.allclose(masked["final_delta"].values, found["final_delta"].values, atol=1e-6)


def test_rows_of_unequal_length_are_as_they_are_alone():
    model = decoder("gpt2")
    spans = {"a": [[0, 1], [1, 2], [3, 0]]}
    together = mlp_response(model, TEXTS, spans, TARGETS, n_random=0)
    for row, text in enumerate(TEXTS):
        alone = mlp_response(model, text, {"a": [spans["a"][row]]}, [TARGETS[row]], n_random=0)
        np.testing.assert_allclose(together["each"].values[row], alone["each"].values[0], atol=1e-5)


def test_spans_are_completed_and_checked():
    batch = Batch(((1, 2, 3, 4, 5), (1, 2, 3)))
    made = complete_spans(batch, {"a": [[1, -3], [0]]})
    assert made == {"a": [[1, 2], [0]], "first token": [[0], []], "last token": [[4], [2]], "rest": [[3], [1]]}
    for spans, says in (
        ({"a": [[1]]}, "1 rows for 2 texts"),
        ({"a": [[7], []]}, "has 5 tokens"),
        ({"a": [[1], []], "b": [[1], []]}, "may not overlap"),
        ({"rest": [[1], []]}, "choose another name"),
    ):
        with pytest.raises(InputError, match=says):
            complete_spans(batch, spans)
    drawn = random_spans(batch, [[1, 2], [0]], 20, np.random.default_rng(0))
    assert {tuple(rows[0]) for rows in drawn} == {(0, 3)} and {tuple(rows[1]) for rows in drawn} == {(1,)}
    with pytest.raises(InputError, match="only 1 others"):
        random_spans(batch, [[0, 1, 2], []], 1, np.random.default_rng(0))


def test_what_cannot_be_asked_is_told():
    with pytest.raises(InputError, match="holds the last token"):
        mlp_response(decoder(), TEXTS, {"a": [[-1], [0], [0]]}, TARGETS)
    with pytest.raises(InputError, match="variant"):
        mlp_response(decoder(), TEXTS, SPANS, TARGETS, variant="off")
    with pytest.raises(InputError, match="names no token in any row"):
        token_lens(decoder(), TEXTS, SPANS, [[1, -1]] * 3)
    for kind in ("bloom", "falcon"):
        with pytest.raises(SiteError, match="pattern"):
            token_lens(decoder(kind), TEXTS, SPANS, TARGETS)
        with pytest.raises(SiteError, match="pattern"):
            mlp_response(decoder(kind), TEXTS, {"a": [[0], [1, 2], [2]]}, TARGETS)


def test_results_load_equal_and_a_missing_target_is_left_out(tmp_path):
    some = [[20, -1], [30, 33], [40, 44]]
    found = token_lens(decoder(), TEXTS, SPANS, some, n_random=3)
    assert np.isnan(found["each"].sel(target="1").values[0]).all() and np.isfinite(found["score"].values).all()
    knocked = mlp_response(decoder(), TEXTS, {"a": SPANS["a"]}, some, n_random=1)
    for name, scores in (("token", found), ("mlp", knocked)):
        scores.save(tmp_path / name)
        assert Scores.load(tmp_path / name).data.equals(scores.data)
