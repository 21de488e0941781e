"""Gradients at single receivers equal what moving that receiver's input alone does, on any architecture and by either way."""

import pytest
import torch

from conceptlab.model import Batch
from conceptlab.model.attention_reading import readings
from conceptlab.model.blocks import record_run
from conceptlab.model.edge_gradients import receiver_gradients
from conceptlab.model.edge_graph import graph_of
from conceptlab.model.gradients import gradients
from conceptlab.model.half_block import HalfBlocks
from conceptlab.model.norm_pullback import norm_pullback
from conceptlab.model.sender_changes import changed_positions, sender_changes, sender_places
from conceptlab.results import Edit, Site

from .roughened import CLEAN, CORRUPTED, KINDS, difference, rough
from .test_gradients import measured
from .tiny import decoder

COUPLED = ("olmo2",)  # a norm over all heads' queries


def moved(model, halves, shape, receiver, step):
    """The edit that lets one receiver alone read the stream moved by `step` [row, pos, d_model]."""
    layer, kind = int(shape.receivers.layer[receiver]), str(shape.receivers.kind[receiver])
    run, rows = halves.run, torch.arange(2)
    if kind == "logits":
        return Edit(
            Site("resid_post", shape.n_layers - 1), "set", (run.streams[-1] + step).flatten(0, 1), positions="all"
        )
    stream = mid = run.streams[layer]
    if kind == "mlp" and not shape.parallel:
        mid = model.capture(CLEAN, "resid_mid", layers=[layer], positions="all")["resid_mid"]
    with halves.open():
        if kind == "mlp":
            out = halves.mlp(layer, mid.reshape(stream.shape) + step, rows)
            return Edit(Site("mlp_out", layer), "set", out.flatten(0, 1), positions="all")
        made = dict(zip("qkv", halves.attention_inputs(layer, stream + step, rows), strict=True))[kind]
    head = int(shape.receivers.head[receiver])
    return Edit(Site(kind, layer, (head,)), "set", made[:, head].flatten(0, 1)[:, None], positions="all")


@pytest.mark.parametrize("kind", KINDS)
def test_a_receiver_is_moved_alone(kind):
    model, metric = rough(kind), difference()
    shape = graph_of(model)
    found = receiver_gradients(model, CLEAN, metric, shape)
    grads = torch.cat([layer for _, layer in found.layers()])
    halves = HalfBlocks(record_run(model, CLEAN))
    assert len(grads) == len(shape.receivers)
    size, off, seen = 1e-3 if kind == "mixtral" else 1e-2, [], 0
    noise = 3e-6 * float(model.logits(CLEAN).abs().max())
    generator = torch.Generator().manual_seed(0)
    for receiver, name in enumerate(shape.receivers.names):
        scale = size * halves.run.streams[int(shape.receivers.layer[receiver])].square().mean().sqrt()
        step = scale * torch.randn(2, 5, model.d_model, generator=generator)
        at = [measured(model, metric, CLEAN, moved(model, halves, shape, receiver, sign * step)) for sign in (1, -1)]
        want, got = (at[0] - at[1]) / 2, (grads[receiver] * step).flatten(1).sum(1)
        seen += float(want.norm()) > 10 * noise
        if float((want - got).norm()) > 0.02 * float(want.norm()) + noise:
            off.append((name, want.tolist(), got.tolist()))
    assert seen > len(grads) / 2  # most slopes stand out from rounding
    assert not off


@pytest.mark.parametrize("n_points", [1, 3])
@pytest.mark.parametrize("kind", [*KINDS, "phi3", "gptj", "cohere", "granite", "deepseek_v3"])
def test_both_ways_agree(kind, n_points):
    model, metric = rough(kind), difference()
    shape = graph_of(model)
    given = None
    if n_points > 1:
        stream = record_run(model, CLEAN).streams[0]
        given = torch.stack([stream * share for share in (0.5, 1.0, 1.5)])
    ways = readings(model)
    assert any(isinstance(way, str) for way in ways) is (kind in (*COUPLED, "deepseek_v3"))
    pair = [receiver_gradients(model, CLEAN, metric, shape, points=given, way=way) for way in ("columns", "backward")]
    for (layer, fast), (_, slow) in zip(*(p.layers() for p in pair), strict=True):
        size = slow.flatten(1).norm(dim=1)
        assert float(((fast - slow).flatten(1).norm(dim=1) / size.clamp_min(1e-4 * float(size.max()))).max()) < 2e-4, (
            layer
        )
    few = torch.tensor([1, 2, 4])
    for (_, some), (_, every) in zip(pair[0].layers(few), pair[0].layers(), strict=True):
        torch.testing.assert_close(some, every[:, :, few], rtol=1e-4, atol=1e-5 * float(every.abs().max()))


def test_receivers_add_up_to_the_stream():
    model, metric = rough("llama"), difference()
    shape = graph_of(model)
    found = receiver_gradients(model, CLEAN, metric, shape)
    total = sum(layer.sum(0) for _, layer in found.layers())
    whole = gradients(model, CLEAN, metric, [("embed", None)]).grads["embed", None]
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "phi3"])
def test_columns_are_those_of_the_heads(kind):
    """Fused, interleaved and separate projections, asked of the model, as the modeling files cut them."""
    way = readings(decoder(kind))[0]
    want = {
        "gpt2": {"q": (0, 0, 16), "k": (0, 64, 16), "v": (0, 128, 16)},
        "gpt_neox": {"q": (0, 0, 48), "k": (0, 16, 48), "v": (0, 32, 48)},
        "llama": {"q": (0, 0, 16), "k": (1, 0, 16), "v": (2, 0, 16)},
        "phi3": {"q": (0, 0, 16), "k": (0, 64, 16), "v": (0, 96, 16)},
    }[kind]
    assert {name: (c.projection, *c.even) for name, c in way.columns.items()} == want
    cut = way.columns["k"].cut(torch.arange(200.0)[None])
    torch.testing.assert_close(cut[:, 0], way.columns["k"].index.float())
    torch.testing.assert_close(
        type(way.columns["k"])(0, way.columns["k"].index, None).cut(torch.arange(200.0)[None]), cut
    )


def test_a_norm_that_is_none_is_told():
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    grads = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x[2] = 0.0  # a stream of zeros has a derivative too
    found = norm_pullback(norm, x, norm(x))
    leaf = x.clone().requires_grad_()
    want = torch.stack([torch.autograd.grad(norm(leaf), leaf, g)[0] for g in grads])
    torch.testing.assert_close(found.of(grads), want, rtol=1e-3, atol=1e-3)
    assert norm_pullback(torch.nn.Tanh(), x, torch.tanh(x)) is None
    assert norm_pullback(torch.nn.GroupNorm(2, 8), x, torch.nn.GroupNorm(2, 8)(x)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_senders_changes_add_up(kind):
    model = rough(kind)
    shape = graph_of(model)
    places = sender_places(shape)
    values = [gradients(model, batch, difference(), only_values=places).values for batch in (CLEAN, CORRUPTED)]
    keep = changed_positions(*values)
    assert keep.tolist() == [1, 2, 3, 4]
    changes = sender_changes(model, shape, *values, keep)
    want = (values[1]["resid_post", shape.n_layers - 1] - values[0]["resid_post", shape.n_layers - 1])[:, keep]
    torch.testing.assert_close(changes.sum(0), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))
    first = (
        model.capture(CLEAN, "z", layers=[0], positions="all")["z"],
        model.capture(CORRUPTED, "z", layers=[0], positions="all")["z"],
    )
    silent = (first[1] - first[0])[:, 0].norm(dim=-1).reshape(2, 5, -1)[:, keep]
    assert ((changes[1 : 1 + shape.n_heads].norm(dim=-1).permute(1, 2, 0) < 1e-5) == (silent < 1e-6)).all()
    assert changed_positions(values[0], values[0]).tolist() == []


def test_one_row_is_one_row():
    model, shape = rough("gpt2"), graph_of(rough("gpt2"))
    both = torch.cat([layer for _, layer in receiver_gradients(model, CLEAN, difference(), shape).layers()])
    alone = receiver_gradients(model, Batch(CLEAN.ids[1:]), difference(), shape, rows=[1])
    torch.testing.assert_close(
        torch.cat([layer for _, layer in alone.layers()])[:, 0], both[:, 1], rtol=1e-3, atol=1e-6
    )
