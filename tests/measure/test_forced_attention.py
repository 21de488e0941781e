"""Attention forced where it belongs repairs the planted failure, equals a plain hook, and random heads repair nothing."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.measure.patching.attention_rescale import Keyed
from conceptlab.measure.patching.forced_attention import Watched, attention_to, forced_attention
from conceptlab.model import load_model
from conceptlab.results import Site
from conceptlab.worlds.shared_subcircuit import CIRCUITS, REPEATED, shared_subcircuit

N = 16


@cache
def world(*, null: bool = False, seed: int = 5):
    planted = shared_subcircuit(n_prompts=N, seed=seed, null=null)
    return planted, load_model(planted.model, tokenizer=planted.tokenizer)


def heads(*names):
    return [Site.parse(f"{name}.z") for name in names]


def forced(sets, *, null=False, seed=5, keys=None, **more):
    planted, model = world(null=null, seed=seed)
    ask = [planted.answer_ids(name) for name in ("ask", "ask_swapped")]
    keyed = Keyed(planted.prompts["ask"], [[REPEATED]] * N if keys is None else keys)
    return forced_attention(model, keyed, *ask, sets, seed=seed, **more)


@pytest.mark.parametrize("seed", [5, 6])
def test_the_silent_head_repairs_the_task_and_others_do_not(seed):
    sets = {"silent": heads("L1.H0"), "movers": heads("L2.H0", "L2.H1"), "decoys": heads("L1.H4", "L0.H5")}
    every = heads(*CIRCUITS["give"], *CIRCUITS["ask"])
    found = forced(sets, seed=seed, avoid=every)
    silent = found.data.sel(set="silent")
    assert found.data.attrs["unforced"] == 0.0
    assert silent["score"] == 1.0 and silent["control"] == 0.0 and silent["p"] <= 0.05 and silent["low"] > 0.7
    assert (found.data.sel(set=["movers", "decoys"])["score"] == 0).all()
    assert found.provenance.causal == "patching" and found.provenance.passes > 0


def test_movers_then_turn_to_the_right_answer():
    planted, _ = world()
    right = [
        [text.split().index(word) + 1]
        for text, word in zip(planted.prompts["ask"], planted.answers["ask"], strict=True)
    ]
    found = forced({"silent": heads("L1.H0")}, watched=Watched(heads("L2.H0"), right), avoid=heads(*CIRCUITS["give"]))
    before, after = found.data.attrs["watched_unforced"], float(found.data["watched"][0])
    assert after > before + 0.3 and abs(float(found.data["watched_control"][0]) - before) < 0.05


def test_forcing_is_what_a_plain_hook_on_the_heads_values_gives():
    """The wanted key takes all attention, so the head writes the value of that key."""
    planted, model = world()
    ask = planted.prompts["ask"]
    edits = model.capture(list(ask), "v", layers=[1], positions=[REPEATED])["v"]
    value = edits.reshape(N, model.n_heads, -1)[:, 0]
    bare, width = planted.model, value.shape[-1]

    def hook(_module, args):
        z = args[0].clone()
        z[:, -1, :width] = value
        return (z, *args[1:])

    handle = bare.transformer.h[1].attn.c_proj.register_forward_pre_hook(hook)
    try:
        with torch.no_grad():
            plain = bare(**planted.tokenizer(list(ask), return_tensors="pt")).logits[:, -1]
    finally:
        handle.remove()
    rows = torch.arange(N)
    right, wrong = (torch.as_tensor(planted.answer_ids(name)) for name in ("ask", "ask_swapped"))
    wins = (plain[rows, right] > plain[rows, wrong]).numpy()
    assert np.array_equal(forced({"silent": heads("L1.H0")}).data["each"].values[0], wins)


def test_attention_is_read_row_by_row_and_keys_may_be_several():
    planted, model = world()
    batch = model.encode(list(planted.prompts["ask"]))
    one = attention_to(model, batch, heads("L1.H3", "L1.H0"), [[REPEATED]] * N)
    assert one.shape == (N, 2) and one[:, 0].min() > 0.95 and one[:, 1] == pytest.approx(0.16, abs=0.03)
    mixed = [[REPEATED] if row % 2 else [-1, REPEATED] for row in range(N)]
    both = attention_to(model, batch, heads("L1.H3"), mixed)
    assert np.allclose(both[1::2], one[1::2, :1], atol=1e-6) and (both[::2] >= one[::2, :1]).all()
    everywhere = attention_to(model, batch, heads("L1.H5"), [list(range(batch.lengths[0]))] * N)
    assert np.allclose(everywhere, 1.0, atol=1e-5)


def test_forcing_all_keys_changes_nothing():
    length = world()[1].encode(world()[0].prompts["ask"][0]).lengths[0]
    found = forced({"silent": heads("L1.H0")}, keys=[list(range(length))] * N)
    assert np.array_equal(found.data["each"].values[0], found.data["unforced_each"].values)


def test_in_the_null_twin_nothing_is_repaired():
    small = 0
    for seed in range(5, 13):
        found = forced({"one": heads("L1.H0"), "two": heads("L0.H0", "L2.H0")}, null=True, seed=seed)
        small += int((found.data["q"].values <= 0.05).sum())
    assert small <= 2  # of sixteen


@pytest.mark.parametrize(
    ("sets", "more", "says"),
    [
        ({}, {}, "no set of heads"),
        ({"none": []}, {}, "is empty"),
        ({"a": [Site("z", 1, (99,))]}, {}, "names no head"),
        ({"a": [Site("z", 9, (0,))]}, {}, "names no head"),
        ({"a": heads("L1.H0")}, {"keys": [[1]]}, "1 lists of key positions"),
        ({"a": heads("L1.H0")}, {"keys": [[99]] * N}, "do not all exist"),
        ({"a": heads("L1.H0")}, {"n_random": 0}, "n_random=0"),
        ({"a": [Site("z", 1, tuple(range(8))), Site("z", 0, tuple(range(8)))]}, {}, "leaves only 8 others"),
        ({"a": heads("L1.H0")}, {"watched": Watched(heads("L2.H0"), [[]] * N)}, "watched texts"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line(sets, more, says):
    with pytest.raises(InputError, match=says) as caught:
        forced(sets, **more)
    assert "\n" not in str(caught.value)
