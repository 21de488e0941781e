"""Split runs: relevant + irrelevant is the true activation at every site, and what cannot be split says so."""

from functools import cache

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from conceptlab.errors import SiteError
from conceptlab.model import load_model
from conceptlab.model.batch import Batch
from conceptlab.model.decomposed import decompose
from conceptlab.model.split_rules import RULES, halves, norm_form
from tests.conformance.tiny_models import tiny_model
from tests.model.tiny import decoder, tokenizer

KINDS = ("gpt2", "llama", "gemma2", "gpt_neox", "qwen3", "olmo2", "cohere", "opt")
STREAM_SITES = (
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "z",
    "mlp_pre",
    "mlp_pre_linear",
    "mlp_post",
)


@cache
def rows() -> Batch:
    ids = torch.randint(10, 90, (3, 7), generator=torch.Generator().manual_seed(3))
    return Batch(tuple(map(tuple, ids.tolist())))


def split_of(stream, positions=(2, 3)):
    mask = torch.zeros(stream.shape[1], 1)
    mask[list(positions)] = 1.0
    return torch.cat([stream * mask, stream * (1 - mask)])


def far(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_add_up_at_every_site(kind, rule):
    model = decoder(kind)
    made = decompose(model, rows(), rule=rule)
    every, seen = torch.arange(3), {}
    stacked = split_of(made.run.streams[0])
    for layer in range(model.n_layers):
        sites = [s for s in STREAM_SITES if s in model.stack.blocks[layer].taps]
        visits = [
            (model.tap(s, layer), layer, False, lambda view, key=(s, layer): seen.__setitem__(key, view.clone()))
            for s in sites
        ]
        stacked = made.block(layer, stacked, every, visits, lambda at, s, view: seen.__setitem__((s, at), view.clone()))
    tokens = torch.tensor([[11, 12]] * 3)
    names = sorted({site for site, _ in seen})
    assert {"q", "k", "v", "z", "mlp_post", "attn_out", "mlp_out"} <= set(names)
    captured = model.capture(rows(), names, positions="all")
    for (site, layer), view in seen.items():
        relevant, irrelevant = halves(view)
        assert far((relevant + irrelevant).flatten(0, 1), captured.at(site, layer)) < 1e-5, (site, layer)
    assert float(halves(stacked)[0].norm() / made.run.streams[-1].norm()) > 0.01  # something is relevant
    found, wanted = sum(halves(made.logits(stacked[:, -1], tokens))), model.logits(rows())[:, [11, 12]]
    if model.stack.softcap:
        wanted = torch.atanh(wanted / model.stack.softcap) * model.stack.softcap
    assert far(found, wanted.detach()) < 1e-5
    assert made.sum_error < 1e-5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_nothing_relevant_stays_exactly_nothing(kind, rule):
    model = decoder(kind)
    made = decompose(model, rows(), rule=rule)
    stacked = torch.cat([torch.zeros_like(made.run.streams[0]), made.run.streams[0]])
    for layer in range(model.n_layers):
        stacked = made.block(layer, stacked, torch.arange(3))
    assert not halves(stacked)[0].any()
    assert not halves(made.logits(stacked[:, -1], torch.tensor([[11]] * 3)))[0].any()


def test_a_source_cannot_reach_tokens_before_it():
    model = decoder("llama")
    for rule in RULES:
        made = decompose(model, rows(), rule=rule)
        stacked = split_of(made.run.streams[0], positions=(4,))
        for layer in range(model.n_layers):
            stacked = made.block(layer, stacked, torch.arange(3))
        relevant = halves(stacked)[0]
        assert relevant[:, 4:].abs().amax((0, 2)).min() > 1e-4
        assert relevant[:, :4].abs().max() < 1e-5


def linear_gpt2():
    """Uniform attention, no norm, no nonlinearity, no bias: a model whose logits are a linear map of its embedding."""
    config = GPT2Config(
        vocab_size=100, n_positions=16, n_embd=32, n_layer=2, n_head=4, activation_function="linear", tie_word_embeddings=False
    )  # fmt: skip
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    for block in model.transformer.h:
        block.ln_1, block.ln_2 = nn.Identity(), nn.Identity()
        with torch.no_grad():
            block.attn.c_attn.weight[:, :64] = 0.0
            for name, parameter in block.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif name.endswith("weight"):
                    parameter.mul_(5.0)
    model.transformer.ln_f = nn.Identity()
    return load_model(model, tokenizer=tokenizer())


@pytest.mark.parametrize("rule", RULES)
def test_a_linear_model_is_split_exactly(rule):
    model = linear_gpt2()
    made = decompose(model, rows(), rule=rule)
    stacked = split_of(made.run.streams[0])
    alone = halves(stacked)[0]
    for layer in range(model.n_layers):
        stacked = made.block(layer, stacked, torch.arange(3))
        alone = made.run.block(layer, alone).detach()
    assert far(halves(stacked)[0], alone) < 1e-5
    wanted = (alone[:, -1] @ model.unembedding.T)[:, [11, 12]]
    assert far(halves(made.logits(stacked[:, -1], torch.tensor([[11, 12]] * 3)))[0], wanted.detach()) < 1e-5


def test_norms_are_told_from_activations():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    for norm in (
        nn.LayerNorm(8),
        nn.RMSNorm(8),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.Identity(),
        nn.Dropout(0.5).eval(),
    ):
        form = norm_form(norm.forward, x, 1e-4)
        assert form is not None
        assert form.centred == isinstance(norm, nn.LayerNorm)
    for other in (nn.GELU(), nn.ReLU(), nn.Tanh(), nn.Softmax(-1)):
        assert norm_form(other.forward, x, 1e-4) is None


@pytest.mark.parametrize(("kind", "said"), [("mixtral", "experts"), ("bloom", "attention interface")])
def test_what_a_model_lacks_is_named(kind, said):
    model = decoder(kind)
    made = decompose(model, rows())
    with pytest.raises(SiteError, match=said):
        made.block(0, split_of(made.run.streams[0]), torch.arange(3))


def test_a_piece_without_a_rule_breaks_the_sum_and_is_named():
    model = load_model(tiny_model("llama"), tokenizer=tokenizer())
    inner = model.stack.blocks[1].module
    handle = inner.register_forward_hook(lambda _m, _a, out: out + 0.3 * torch.sin(out))
    made = decompose(model, rows())
    stacked = made.block(0, split_of(made.run.streams[0]), torch.arange(3))
    with pytest.raises(SiteError, match="block 1 .*no rule"):
        made.block(1, stacked, torch.arange(3))
    handle.remove()


def test_every_hook_is_gone_afterwards():
    model = decoder("gemma2")
    before = model.logits(rows())
    made = decompose(model, rows())
    made.block(0, split_of(made.run.streams[0]), torch.arange(3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())
    assert torch.equal(model.logits(rows()), before)
    assert made.forwards == pytest.approx(2 * 3 / model.n_layers)
