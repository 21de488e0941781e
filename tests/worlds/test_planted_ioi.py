"""The indirect-object world: head effects, paths and copying, measured again with plain hooks."""

from functools import cache

import pytest
import torch

from conceptlab.worlds.ioi import NAMES, ioi

from .plain_hooks import (
    accuracy,
    all_heads,
    last_logits,
    logit_diff,
    out_hooks,
    out_projection,
    patch_effects,
    patched_head,
    patterns,
    record,
)


@cache
def world(null: bool = False, seed: int = 0):
    return ioi(seed=seed, null=null)


def metric(planted, logits):
    return logit_diff(logits, planted.answer_ids("clean"), planted.answer_ids("swapped"))


@pytest.mark.parametrize("family", ["clean", "swapped"])
def test_every_prompt_is_answered(family):
    assert accuracy(world(), family) == world().truth["accuracy"] == 1.0


@pytest.mark.parametrize("seed", [0, 1])
def test_patching_each_head_gives_the_stated_effect(seed):
    planted = world(seed=seed)
    found = patch_effects(planted, "clean", "swapped", lambda logits: metric(planted, logits))
    for name, effect in found.items():
        stated = planted.truth["heads"].get(name, {"noising": 0.0})["noising"]
        assert effect == pytest.approx(stated, abs=planted.truth["tolerance"]["noising"])


def test_the_logit_differences_are_as_stated():
    planted = world()
    for family, stated in planted.truth["logit_diff"].items():
        found = float(metric(planted, last_logits(planted, planted.prompts[family])).mean())
        assert found == pytest.approx(stated, abs=planted.truth["tolerance"]["logit_diff"])


def test_zero_ablation_is_as_stated():
    planted = world()
    for name, layer, head in all_heads(planted.model):
        if name in planted.truth["heads"]:
            with patched_head(planted.model, layer, head, 0.0):
                found = float(metric(planted, last_logits(planted, planted.prompts["clean"])).mean())
            stated = planted.truth["heads"][name]["zero_ablated"]
            assert found == pytest.approx(stated, abs=planted.truth["tolerance"]["zero_ablated"])


def sent(planted, layer, head):
    """What a head adds to the stream under `swapped` minus under `clean`, [row, pos, d_model]."""
    project = out_projection(planted.model, layer)
    swapped, clean = (record(planted, planted.prompts[name], [project])[0] for name in ("swapped", "clean"))
    d_head = planted.model.config.hidden_size // planted.model.config.num_attention_heads
    here = slice(head * d_head, (head + 1) * d_head)
    return (swapped - clean)[..., here] @ project.weight.detach()[here]


def path_effect(planted, sender, receiver):
    """Effect of one path: the receiver alone sees what the sender writes under `swapped` (norms are neutral)."""
    model = planted.model
    change = sent(planted, int(sender[1]), int(sender[4]))
    if receiver == "logits":
        hook = (model.transformer.h[-1], lambda x: x + change)
    else:
        layer, head, part = int(receiver[1]), int(receiver[4]), "qkv".index(receiver[-1])
        block, d_model = model.transformer.h[layer], model.config.hidden_size
        d_head = d_model // model.config.num_attention_heads
        start = part * d_model + head * d_head
        weight = block.attn.c_attn.weight.detach()[:, start : start + d_head]

        def read(qkv):
            qkv = qkv.clone()
            qkv[..., start : start + d_head] += change @ weight
            return qkv

        hook = (block.attn.c_attn, read)
    clean, swapped = (
        metric(planted, last_logits(planted, planted.prompts[name])).mean() for name in ("clean", "swapped")
    )
    with out_hooks(hook):
        moved = metric(planted, last_logits(planted, planted.prompts["clean"])).mean()
    return float((clean - moved) / (clean - swapped))


def test_the_paths_carry_the_stated_effects():
    planted = world()
    found = {tuple(edge[:2]): path_effect(planted, *edge[:2]) for edge in planted.truth["edges"]}
    for sender, receiver, stated in planted.truth["edges"]:
        assert found[sender, receiver] == pytest.approx(stated, abs=0.01)
    # the movers' queries together carry what S-inhibition does
    assert found["L1.H0", "L2.H0.q"] + found["L1.H0", "L2.H1.q"] == pytest.approx(1.0, abs=0.01)


def test_movers_copy_and_the_negative_mover_against():
    planted = world()
    model = planted.model
    names = planted.tokenizer.convert_tokens_to_ids(list(NAMES))
    embed, d_head = model.transformer.wte.weight.detach()[names], 32
    for name, layer, head in all_heads(model):
        attention = model.transformer.h[layer].attn
        value = attention.c_attn.weight.detach()[:, 2 * 128 + head * d_head :][:, :d_head]
        written = embed @ value @ attention.c_proj.weight.detach()[head * d_head : (head + 1) * d_head]
        scores = written @ model.lm_head.weight.detach()[names].T
        stated = planted.truth["heads"].get(name, {}).get("copies")
        own = torch.arange(len(names))
        if stated is not None:
            assert bool(((stated * scores).argmax(-1) == own).all())
        else:
            assert float((scores.argmax(-1) == own).float().mean()) < 0.5


def test_the_heads_look_where_their_roles_say():
    planted = world()
    found = patterns(planted, planted.prompts["clean"])
    # tokens: <bos> first and second met S2 gave to; the repeated name is the first one in even rows
    repeated = torch.tensor([1 if row % 2 == 0 else 3 for row in range(found.shape[1])])
    rows, other = torch.arange(found.shape[1]), 4 - repeated
    assert float(found[0, rows, 0, 5, repeated].min()) > 0.99
    assert float(found[1, rows, 0, 7, 5].min()) > 0.99
    assert float(found[2, rows, 0, 7, other].min()) > 0.99
    assert float(found[2, rows, 1, 7, other].min()) > 0.99


def test_without_a_repeated_name_the_early_heads_do_nothing():
    planted = world()
    texts = planted.prompts["distinct"]
    base = metric(planted, last_logits(planted, texts)).mean()
    for layer in (0, 1):
        with patched_head(planted.model, layer, 0, 0.0):
            moved = metric(planted, last_logits(planted, texts)).mean()
        assert abs(float(moved - base)) < 0.14  # 1 % of the 14 logits between clean and swapped


def test_the_null_twin_is_at_chance():
    twin = world(null=True)
    assert twin.truth["heads"] == {}
    assert accuracy(twin) < 0.27
    assert abs(float(metric(twin, last_logits(twin, twin.prompts["clean"])).mean())) < 0.2
