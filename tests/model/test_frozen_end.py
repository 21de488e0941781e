"""Norms held fixed, heads split, the stream as a sum: exact on real types, and a named error where it cannot be."""

import pytest
import torch
from torch import nn

from conceptlab.errors import SiteError
from conceptlab.model.components import component_sites, components, final_stream
from conceptlab.model.frozen_end import freeze_end
from conceptlab.model.frozen_norm import freeze_norm
from conceptlab.model.head_outputs import head_outputs
from conceptlab.model.output_map import output_map, projection
from tests.model.tiny import TEXTS, decoder

KINDS = (
    "gpt2",
    "llama",
    "gemma2",
    "gpt_neox",
    "olmo2",
    "cohere",
    "mixtral",
    "opt",
    "bloom",
    "granite",
    "falcon",
    "glm4",
)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_and_bias_add_up_to_what_attention_adds(kind):
    model = decoder(kind)
    acts = model.capture(TEXTS, ["z", "attn_out"], positions="all")
    for layer in range(model.n_layers):
        split = head_outputs(model, acts, layer)
        assert split.each.shape == (15, model.n_heads, model.d_model)
        torch.testing.assert_close(split.each.sum(1) + split.bias, acts.at("attn_out", layer), rtol=0, atol=1e-5)


def test_a_head_is_what_zeroing_the_others_leaves():
    from conceptlab.results import Edit

    model = decoder("gpt2")
    acts = model.capture(TEXTS, ["z", "attn_out"], layers=[0], positions="all")
    split = head_outputs(model, acts, 0)
    with model.edited(Edit("L0.H0,2,3.z", "zero")):
        alone = model.capture(TEXTS, "attn_out", layers=[0], positions="all")["attn_out"][:, 0]
    torch.testing.assert_close(split.each[:, 1] + split.bias, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_pulled_directions_read_what_parts_hold(kind):
    model = decoder(kind)
    site = ("z", "attn_out") if kind == "mixtral" else ("mlp_post", "mlp_out")
    acts = model.capture(TEXTS, list(site), layers=[1], positions="all")
    held = acts.at(site[0], 1)
    through = output_map(model, site[0], 1, held, acts.at(site[1], 1))
    directions = torch.randn(15, 3, model.d_model, generator=torch.Generator().manual_seed(0)).double()
    read = (held.flatten(1)[:, None].double() * through.pull(directions)).sum(-1)
    added = acts.at(site[1], 1).double() - through.constant(15).double()
    torch.testing.assert_close(read, (added[:, None] * directions).sum(-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_end_is_the_lens_on_the_whole_and_linear_on_parts(kind):
    model = decoder(kind)
    acts = model.capture(TEXTS, component_sites(model, "head"), positions="all")
    final = final_stream(model, acts)
    end = freeze_end(model, final)
    parts = torch.cat([part for _, part in components(model, acts, "head")], 1)
    torch.testing.assert_close(parts.sum(1), final, rtol=0, atol=1e-4)
    every = torch.arange(end.unembedding.shape[0]).expand(len(final), -1)
    logits = end.logits(parts).sum(1) + end.constant(every).float()
    logits = logits if end.softcap is None else end.softcap * torch.tanh(logits / end.softcap)
    want = model.lens(final).detach()
    torch.testing.assert_close(logits, want, rtol=0, atol=2e-5 * float(want.abs().max()))
    ids = torch.randint(10, 90, (len(final), 2), generator=torch.Generator().manual_seed(0))
    read = torch.einsum("tcd,tkd->tck", parts.double(), end.directions(ids))
    want = end.logits(parts).gather(-1, ids[:, None].expand(-1, parts.shape[1], -1))
    torch.testing.assert_close(read.float(), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        end.between(ids[:, :1], ids[:, 1:])[:, 0], end.directions(ids)[:, 0] - end.directions(ids)[:, 1]
    )


class Tanh(nn.Module):
    def forward(self, x):
        return torch.tanh(x)


class Grouped(nn.Module):
    def forward(self, x):
        halves = x.unflatten(-1, (2, -1))
        return (halves / halves.pow(2).mean(-1, keepdim=True).sqrt()).flatten(-2)


@pytest.mark.parametrize("module", [Tanh(), Grouped(), nn.Identity()])
def test_what_is_no_norm_is_told_or_is_the_identity(module):
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    if isinstance(module, nn.Identity):
        frozen = freeze_norm(module, x, module(x))
        torch.testing.assert_close(frozen.of(x[:, None])[:, 0], x)
        return
    with pytest.raises(SiteError, match="no gain on a scaled stream"):
        freeze_norm(module, x, module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_with_gain_and_bias_are_recognised(dtype):
    generator = torch.Generator().manual_seed(0)
    norm = nn.LayerNorm(17)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(17, generator=generator))
        norm.weight[3] = 0.0
        norm.bias.copy_(torch.randn(17, generator=generator))
    norm, x = norm.to(dtype), torch.randn(5, 17, generator=generator).to(dtype) * 3 + 1
    frozen = freeze_norm(norm, x, norm(x))
    assert frozen.centred
    limit = 1e-5 if dtype == torch.float32 else 5e-2
    torch.testing.assert_close(frozen.of(x.float()[:, None])[:, 0] + frozen.bias, norm(x).float(), rtol=0, atol=limit)
    parts = torch.randn(5, 4, 17, generator=generator)
    torch.testing.assert_close(frozen.of(parts).sum(1), frozen.of(parts.sum(1)[:, None])[:, 0], rtol=0, atol=1e-4)
    d = torch.randn(5, 4, 17, generator=generator)
    torch.testing.assert_close((frozen.of(parts) * d).sum(-1), (parts * frozen.pull(d)).sum(-1), rtol=1e-4, atol=1e-4)


def test_a_map_that_is_not_plain_is_asked():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 3)

        def forward(self, x):
            return 2 * self.inner(x)

    module = Wrapped()
    matrix, bias = projection(module, 5)
    torch.testing.assert_close(matrix, 2 * module.inner.weight.T.detach())
    torch.testing.assert_close(bias, 2 * module.inner.bias.detach())
