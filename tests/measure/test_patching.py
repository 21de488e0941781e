"""Patching finds what was planted, says how little it knows where nothing is, and agrees with plain hooks."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError, SiteError
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.measure.patching.attention_knockout import attention_knockout
from conceptlab.measure.patching.path_patching import path_patching
from conceptlab.model import Model, load_model
from conceptlab.model.metric import Metric, log_prob, logit, logit_diff
from conceptlab.results import Edit, Scores
from conceptlab.worlds.boolean import boolean
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.planted import PlantedWorld

MAKERS = {"ioi": ioi, "induction": induction, "boolean": boolean}


@cache
def world(name: str, null: bool = False, seed: int = 0, **options) -> tuple[PlantedWorld, Model]:
    made = MAKERS[name](null=null, seed=seed, n_prompts=32, **options)
    return made, load_model(made.model, tokenizer=made.tokenizer)


def answers(planted: PlantedWorld, corruption: str) -> Metric:
    return logit_diff(planted.answer_ids("clean"), planted.answer_ids(corruption))


def patched(
    name: str, corruption: str, *, null: bool = False, seed: int = 0, world_options: tuple = (), **options
) -> Scores:
    planted, model = world(name, null, seed, **dict(world_options))
    metric = logit(planted.answer_ids("clean")) if name == "boolean" else answers(planted, corruption)
    return activation_patching(model, planted.prompts["clean"], planted.prompts[corruption], metric, **options)


def truth_of(planted: PlantedWorld, shape: tuple[int, int], what: str, corruption: str | None = None) -> np.ndarray:
    found = np.zeros(shape)
    for name, head in planted.truth["heads"].items():
        value = head[what] if corruption is None else head[what][corruption]
        found[int(name[1]), int(name[4])] = value
    return found


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_head_of_the_ioi_world_has_its_planted_effect(direction) -> None:
    found = patched("ioi", "swapped", site="z", by="head", direction=direction)
    planted, _ = world("ioi")
    assert np.abs(found["score"].values - truth_of(planted, (3, 4), "noising")).max() < 0.01
    assert set(zip(*np.nonzero((found["q"].values < 0.05) & (np.abs(found["score"].values) > 0.01)), strict=True)) == {
        (0, 0), (1, 0), (2, 0), (2, 1)
    }  # fmt: skip
    assert np.abs(found["control"].values).max() < 0.2
    assert ((found["low"] <= found["score"]) & (found["score"] <= found["high"])).all()


@pytest.mark.parametrize("corruption", ["key", "query"])
def test_decoys_with_the_right_pattern_have_no_effect(corruption) -> None:
    found, (planted, _) = patched("induction", corruption, site="z", by="head"), world("induction")
    assert np.abs(found["score"].values - truth_of(planted, (2, 4), "noising", corruption)).max() < 0.01
    for decoy in (1, 2):  # the previous-token and the duplicate-token decoy
        assert abs(float(found["score"][0, decoy])) < 1e-6  # rounding only
        assert float(found["q"][0, decoy]) > 0.5


@pytest.mark.parametrize("gate", ["or", "and"])
def test_redundant_paths_are_hidden_from_one_direction(gate) -> None:
    for direction in ("noising", "denoising"):
        found = patched("boolean", "key", world_options=(("gate", gate),), site="z", by="head", direction=direction)
        planted, _ = world("boolean", gate=gate)
        assert np.abs(found["score"].values - truth_of(planted, (2, 4), direction, "key")).max() < 0.011


def test_the_stream_shows_the_path_of_the_answer() -> None:
    found = patched("ioi", "swapped", site="resid_pre", by="position")
    on_path = np.zeros((3, 8))
    on_path[0, 5] = on_path[1, 5] = on_path[2, 7] = 1.0  # S2, where the name is read, then END
    assert np.abs(found["score"].values - on_path).max() < 0.01
    assert found.provenance.causal == "patching"


@pytest.mark.parametrize(
    ("site", "by", "cell"),
    [("q", "head", (2, 0)), ("pattern", "head", (2, 0)), ("v", "head", (1, 0)), ("z", "head_position", (1, 0, 7)),
     ("attn_out", "position", (0, 5)), ("resid_mid", "layer", (2,))],
)  # fmt: skip
def test_each_kind_of_place_can_be_patched(site, by, cell) -> None:
    found = patched("ioi", "swapped", site=site, by=by)
    assert float(found["score"].values[cell]) > 0.99
    assert float(found["q"].values[cell]) < 0.05


def test_a_layer_of_neurons_joins_the_votes_and_its_null_twin_does_not() -> None:
    options = (("gate", "and"),)
    found = patched("boolean", "key", world_options=options, site="mlp_post", by="neuron", layers=[1])
    planted = {int(name[4:]) for name in world("boolean", gate="and")[0].truth["neurons"]}
    active = set(np.flatnonzero(np.abs(found["score"].values[0]) > 0.01).tolist())
    assert active
    assert active <= planted


def test_a_patch_equals_plain_hooks() -> None:
    planted, model = world("ioi")
    clean, other, metric = planted.prompts["clean"], planted.prompts["swapped"], answers(planted, "swapped")
    found = patched("ioi", "swapped", site="z", by="head")
    donor = model.capture(other, "z", positions="all")["z"][:, 2, :1]
    with model.edited(Edit("L2.H0.z", "set", donor)):
        edited = model.logits(clean).gather(1, metric.tokens)  # type: ignore[arg-type]
    value = float((edited[:, 0] - edited[:, 1]).mean())
    whole, empty = float(found["clean"].mean()), float(found["corrupted"].mean())
    assert (whole - value) / (whole - empty) == pytest.approx(float(found["score"][2, 0]), abs=1e-5)


def test_null_models_yield_findings_at_the_stated_rate() -> None:
    silent = 0
    for seed in range(20, 30):
        found = patched("ioi", "swapped", null=True, seed=seed, site="z", by="head")
        silent += int(not (found["q"].values < 0.05).any())
    assert (
        silent >= 8
    )  # a null twin's answers rarely differ between texts; where they do, its heads are causal, tiny as it is


def test_path_patching_follows_single_edges() -> None:
    planted, model = world("ioi")
    clean, other = planted.prompts["clean"], planted.prompts["swapped"]
    receivers = sorted({edge[1] for edge in planted.truth["edges"]})
    for freeze in ("heads and mlps", "heads"):
        found = path_patching(model, clean, other, answers(planted, "swapped"), receivers=receivers, freeze=freeze)
        table = found.data["score"]
        for sender, receiver, effect in planted.truth["edges"]:
            assert float(table.sel(sender=sender, receiver=receiver)) == pytest.approx(effect, abs=0.01)
        assert np.abs(table.sel(sender=["L0.H1", "L0.H2", "L1.H2"]).values).max() < 0.01
        strong = table.sel(receiver="L2.H0.q", sender="L1.H0")
        assert float(found["q"].sel(receiver="L2.H0.q", sender="L1.H0")) < 0.05 < float(strong)


def test_a_set_of_receivers_is_patched_together() -> None:
    planted, model = world("ioi")
    found = path_patching(
        model, planted.prompts["clean"], planted.prompts["swapped"], answers(planted, "swapped"),
        receivers=[("L2.H0.q", "L2.H1.q")], senders=["embed", "L1.H0", "L2.H0"],
    )  # fmt: skip
    assert found["score"].values.round(2).tolist() == [[0.0, 1.0, 0.0]]


def test_recomputed_mlps_carry_what_frozen_ones_do_not() -> None:
    planted, model = world("boolean", gate="and")
    clean, other, metric = planted.prompts["clean"], planted.prompts["key"], logit(planted.answer_ids("clean"))
    frozen = path_patching(model, clean, other, metric, senders=["L1.H0"])
    moved = path_patching(model, clean, other, metric, senders=["L1.H0"], freeze="heads")
    assert abs(float(frozen["score"][0, 0])) < 0.01  # the head reaches the logits through the MLP alone
    assert float(moved["score"][0, 0]) > 0.95


def test_attention_is_cut_where_the_answer_travels() -> None:
    for null in (False, True):
        planted, model = world("ioi", null)
        n = len(planted.prompts["clean"])
        other = [[3] if row % 2 == 0 else [1] for row in range(n)]
        spans = {"S2": [[5]] * n, "the other name": other, "and": [[2]] * n}
        found = attention_knockout(model, planted.prompts["clean"], answers(planted, "swapped"), spans)
        strong = {
            (int(a), int(b))
            for a, b in zip(*np.nonzero((found["score"] > 1).values & (found["q"] < 0.05).values), strict=True)
        }
        assert strong == (set() if null else {(1, 0), (2, 1)})
        if not null:
            masked = attention_knockout(
                model, planted.prompts["clean"], answers(planted, "swapped"), spans, variant="mask", window=None
            )
            assert float(masked["score"][0, 0]) > 1 > abs(float(masked["score"][0, 2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corrupted": ("Ada and Ben",) * 32}, "must have the same number"),
        ({"corrupted": ("Ada and Ben met Ada gave to",) * 3}, "32 clean texts came with 3"),
        ({"corrupted": None}, "score the same"),
        ({"direction": "both"}, "is not known"),
        ({"by": "expert"}, "is not known"),
        ({"by": "head", "site": "resid_pre"}, "does not fit"),
        ({"site": "cross_attn_out", "by": "layer"}, "no cross-attention"),
        ({"site": "nothing"}, "no site is called"),
        ({"by": "head", "site": "z", "units": [9]}, "heads 0 to 3"),
        ({"metric": Metric("constant", lambda logits, _: logits[..., 0] * 0)}, "score the same"),
        ({"metric": Metric("broken", lambda logits, _: logits[..., 0] / 0)}, "NaN or infinite"),
    ],
)
def test_bad_input_is_one_line(change, message) -> None:
    planted, model = world("ioi")
    texts = {"clean": planted.prompts["clean"], "corrupted": planted.prompts["swapped"], **change}
    texts["corrupted"] = texts["corrupted"] or texts["clean"]
    metric = texts.pop("metric", answers(planted, "swapped"))
    with pytest.raises((InputError, SiteError), match=message) as caught:
        activation_patching(model, texts.pop("clean"), texts.pop("corrupted"), metric, **texts)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_patch_without_its_control_says_so() -> None:
    found = patched("ioi", "swapped", site="z", by="head", control=False)
    assert np.isnan(found["control"].values).all()
    assert "no random patches" in found.provenance.warnings[0]


def test_whole_vocabulary_metrics_work_too() -> None:
    planted, model = world("ioi")
    metric = log_prob(planted.answer_ids("clean"))
    found = activation_patching(
        model, planted.prompts["clean"], planted.prompts["swapped"], metric, site="z", by="head"
    )
    assert float(found["score"][2, 0]) > 0.9
    assert torch.is_grad_enabled()
