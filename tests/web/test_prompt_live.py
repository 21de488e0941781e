"""What the Prompt page computes is what the methods give when they are called directly, from one pass."""

import numpy as np
import pytest
import torch

from conceptlab import default_concepts, default_model_path, load_model
from conceptlab.errors import InputError, ModelError, SiteError
from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.lenses.logit_lens import logit_lens
from conceptlab.measure.lenses.token_lens import token_lens
from conceptlab.model.batch import Batch
from conceptlab.web.live import one_pass as passes
from conceptlab.web.live.attention import attention_tiles, fixed_point, head_pattern, reduced, tiles_of
from conceptlab.web.live.contribution_rows import by_layer, head_map
from conceptlab.web.live.contributions import contributions
from conceptlab.web.live.lens_grid import RANDOM_STREAMS, cell, lens_grid
from conceptlab.web.live.one_pass import cut_tokens, read_prompt, token_id
from conceptlab.web.live.readouts import random_directions, readouts
from conceptlab.web.pages.prompt import directions_of
from tests.web.prompt_models import Ready, finish, random_model, word_tokenizer


@pytest.fixture(scope="module")
def live():
    return Ready(load_model(str(default_model_path())))


@pytest.fixture(scope="module")
def text() -> str:
    return default_concepts().concepts[0].texts[0]


def test_the_lens_is_the_lens(live, text) -> None:
    grid = finish(lens_grid(live, text))
    plain = logit_lens(live.model, text, grid.target, positions="all")
    assert list(grid.layers) == [str(v) for v in plain["layer"].values]
    assert grid.target[:-1].tolist() == list(grid.prompt.ids[1:])
    assert np.array_equal(grid.top_id, plain["top_id"].values)
    np.testing.assert_allclose(grid.top_prob, plain["top_prob"].values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(grid.entropy, plain["entropy"].values, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(grid.target_rank, plain["target_rank"].values[..., 0])
    np.testing.assert_allclose(grid.target_prob, plain["target_prob"].values[..., 0], rtol=1e-4, atol=1e-6)
    model_says = live.model.logits(text, positions="all").softmax(-1)
    np.testing.assert_allclose(grid.top_prob[-1], model_says.topk(5, -1).values.numpy(), rtol=1e-4, atol=1e-6)


def test_the_lens_has_controls_that_say_nothing(live, text) -> None:
    grid = finish(lens_grid(live, text))
    assert set(grid.control) == {"top_prob", "entropy", "target_prob", "target_rank"}
    n_layers, middle = len(grid.layers), grid.d_vocab / 2
    assert all(values.shape == (n_layers,) for values in grid.control.values())
    assert 0.5 * middle < grid.control["target_rank"].mean() < 1.5 * middle
    assert np.median(grid.target_rank[-1]) < grid.control["target_rank"][-1] / 4
    assert RANDOM_STREAMS >= 8


def test_a_chosen_target_and_a_cell(live, text) -> None:
    grid = finish(lens_grid(live, text, "the"))
    assert grid.asked
    assert set(grid.target.tolist()) == {token_id(live.model, "the", "target")}
    found = cell(grid, len(grid.layers) - 1, 2)
    assert found["top"][0]["prob"] == pytest.approx(float(grid.top_prob[-1, 2, 0]))
    assert found["target_rank"] == grid.target_rank[-1, 2]
    with pytest.raises(InputError, match="outside"):
        cell(grid, 99, 0)


def test_patterns_are_those_of_the_forward(live, text) -> None:
    tiles = finish(attention_tiles(live, text))
    plain = live.model.capture(text, "pattern", positions="all")["pattern"].numpy()
    n = len(tiles.prompt)
    assert tiles.tiles.shape == (live.model.n_layers, live.model.n_heads, n, n)
    for layer in range(live.model.n_layers):
        for head in range(0, live.model.n_heads, 3):
            found = finish(head_pattern(live, text, layer, head))
            np.testing.assert_allclose(found.weights, plain[:, layer, head], rtol=1e-5, atol=1e-7)
            drawn = np.rint(255 * np.sqrt(plain[:, layer, head]))
            assert np.abs(tiles.tiles[layer, head] - drawn).max() <= 1
    v = live.model.capture(text, "v", positions="all")["v"][:, -1].norm(dim=-1).numpy()
    last = finish(head_pattern(live, text, live.model.n_layers - 1, 0))
    np.testing.assert_allclose(last.value_norm, v[:, 0], rtol=1e-5)
    assert np.abs(fixed_point(last.weights) / 65535 - last.weights).max() < 1e-5


def test_tiles_keep_the_strongest_weight() -> None:
    pattern = torch.rand(2, 150, 150, generator=torch.Generator().manual_seed(0)) * 0.5
    pattern[1, 149, 3] = 1.0
    tiles = tiles_of(pattern)
    assert tiles.shape == (2, 64, 64)
    assert tiles[1, 63, 1] == 255
    assert tiles.max(axis=(1, 2)).tolist() == [round(255 * float(pattern[h].max()) ** 0.5) for h in range(2)]
    assert torch.equal(reduced(torch.arange(128.0)[None], 1), torch.arange(1, 128, 2.0)[None])


@pytest.mark.parametrize("token", [None, 2])
def test_contributions_are_those_of_direct_logit(live, text, token) -> None:
    found = finish(contributions(live, text, token, distractor="is"))
    at = len(found.prompt) - 1 if token is None else token
    plain = direct_logit(live.model, text, [found.target], [found.distractor], position=at)
    np.testing.assert_allclose(found.scores["score"].values, plain["score"].values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.scores["control_high"].values, plain["control_high"].values, rtol=1e-4, atol=1e-5)
    logits = live.model.logits(text, positions=[at])[0]
    assert found.scores.data.attrs["logit_diff"] == pytest.approx(
        float(logits[found.target] - logits[found.distractor]), abs=1e-4
    )
    rows = by_layer(found.scores)
    assert sum(r["attention"] + r["mlp"] + r["other"] for r in rows) == pytest.approx(
        found.scores.data.attrs["logit_diff"]
    )
    heads, band = head_map(found.scores)
    assert heads is not None
    assert heads.shape == band.shape == (live.model.n_layers, live.model.n_heads)
    assert found.sources is not None
    assert found.sources.sum() == pytest.approx(float(np.nansum(heads)), abs=1e-5)


def test_source_tokens_are_those_of_the_token_lens(live, text) -> None:
    found = finish(contributions(live, text))
    spans = {str(i): [[i]] for i in range(len(found.prompt))}
    plain = token_lens(live.model, text, spans, [[found.target]], n_random=2)
    np.testing.assert_allclose(found.sources, plain["score"].values[..., 0], rtol=1e-4, atol=1e-6)


def test_concepts_are_projected_in_the_atlas_own_unit(live, text, desk) -> None:
    directions = directions_of(desk.atlas(), "")
    chosen = directions[-1]
    found = finish(readouts(live, text, directions, chosen.id))
    assert found.concepts[found.chosen].id == chosen.id
    acts = live.model.capture(text, ["embed", "resid_post"], positions="all")
    streams = torch.cat([acts["embed"][:, None], acts["resid_post"]], 1)
    points, mean = chosen.subspace.class_points[:, 0], chosen.subspace.mean
    along = (streams - mean) @ chosen.subspace.vector
    wanted = (along - points.mean()) / ((points.max() - points.min()) / 2) if len(points) == 2 else None
    if wanted is not None:
        np.testing.assert_allclose(found.by_layer, wanted.T.numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.each[found.chosen], found.by_layer[chosen.at], rtol=1e-5, atol=1e-5)
    assert found.random.shape == found.bound.shape == found.by_layer.shape
    assert (found.bound >= 0).all()
    assert torch.allclose(random_directions(64).norm(dim=1), torch.ones(100))
    share = (np.abs(found.random) <= found.bound).mean()
    assert share > 0.5


def test_five_panels_cost_one_pass(text) -> None:
    live = Ready(load_model(str(default_model_path())))
    finish(lens_grid(live, text))
    before = live.model.forwards
    finish(readouts(live, text))
    finish(lens_grid(live, text, "the"))
    finish(attention_tiles(live, text))
    finish(head_pattern(live, text, 1, 1))
    assert live.model.forwards == before


def test_passes_are_kept_within_their_budget(monkeypatch) -> None:
    live = Ready(random_model(word_tokenizer(40)))
    size = passes.pass_bytes(live.model, 4)
    monkeypatch.setattr(passes, "KEPT", 2 * size)
    for i in range(5):
        finish(lens_grid(live, f"w1 w2 w3 w{i + 4}"))
    assert len(passes._PASSES[live.model]) == 2
    monkeypatch.setattr(passes, "LARGEST", size - 1)
    with pytest.raises(InputError, match="give at most 3 tokens"):
        read_prompt(live.model, "w1 w2 w3 w4")


def test_what_does_not_fit_is_said_before_anything_runs(live) -> None:
    before = live.model.forwards
    with pytest.raises(InputError, match="empty"):
        finish(lens_grid(live, ""))
    with pytest.raises(ModelError, match="longer than the context"):
        finish(lens_grid(live, "the cup " * 400))
    with pytest.raises(InputError, match="characters"):
        finish(lens_grid(live, "x" * 100_000))
    with pytest.raises(InputError, match=r"the target .* is \d+ tokens"):
        finish(lens_grid(live, "The cup", "the cup is"))
    with pytest.raises(InputError, match="outside the vocabulary"):
        finish(lens_grid(live, "The cup", "#999999"))
    with pytest.raises(InputError, match="was asked"):
        finish(contributions(live, "The cup", 50))
    with pytest.raises(InputError, match="same token"):
        finish(contributions(live, "The cup", target="the", distractor="the"))
    assert live.model.forwards == before
    with pytest.raises(SiteError, match="layers 0 to"):
        finish(head_pattern(live, "The cup", 99, 0))
    with pytest.raises(SiteError, match="heads 0 to"):
        finish(head_pattern(live, "The cup", 0, 99))


def test_no_hook_is_left_behind(live, text) -> None:
    hooks = [m for m in live.model.module.modules() if m._forward_hooks or m._forward_pre_hooks]
    finish(attention_tiles(live, text))
    finish(contributions(live, text))
    work = attention_tiles(live, text)
    for _ in range(3):
        next(work)
    work.close()
    assert hooks == [m for m in live.model.module.modules() if m._forward_hooks or m._forward_pre_hooks] == []


@pytest.mark.parametrize(
    ("offsets", "decoded", "wanted"),
    [
        (((0, 2), (2, 4)), ["ab", "cd"], ["ab", "cd"]),
        (((0, 1), (0, 1), (1, 4)), ["\ufffd", "\ufffd", "bcd"], ["a", "", "bcd"]),  # two bytes of one character
        (((0, 1), (0, 1), (1, 4)), ["▁", "a", "bcd"], ["", "a", "bcd"]),  # a mark before the first word
        (((0, 0), (0, 4), (0, 0)), ["<s>", "abcd", "</s>"], ["<s>", "abcd", "</s>"]),
    ],
)
def test_tokens_are_cut_so_that_they_add_up(offsets, decoded, wanted) -> None:
    assert list(cut_tokens("abcd", Batch(((1,) * len(offsets),), (offsets,)), decoded)) == wanted
    assert list(cut_tokens("abcd", Batch(((1,) * len(offsets),)), decoded)) == decoded


def test_words_that_the_tokenizer_does_not_know_are_shown_as_they_stand() -> None:
    live = Ready(random_model(word_tokenizer(40)))
    grid = finish(lens_grid(live, "w1 zzz w2", "w3"))
    assert grid.prompt.tokens == ("w1", "zzz", "w2")
    assert np.isfinite(grid.entropy).all()
    with pytest.raises(InputError, match="2 tokens"):
        finish(lens_grid(live, "w1", "zzz w2"))
