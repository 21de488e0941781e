"""Classes of gated neurons: planted ones exactly, none among random weights, what the classes do, and models without gates."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conceptlab.errors import InputError, SiteError
from conceptlab.find.neurons.find_neurons import find_neurons
from conceptlab.find.neurons.gated_neurons import CLASSES, gated_neurons, members
from conceptlab.model import load_model
from conceptlab.worlds.gated_classes import gated_classes


def model_of(**options):
    world = gated_classes(**options)
    return load_model(world.model, tokenizer=world.tokenizer), world.truth["classes"]


def names(sites):
    return {f"L{s.layer}.N{s.units[0]}" for s in sites}


@pytest.mark.parametrize("seed", range(3))
def test_planted_classes_are_exact_and_random_weights_have_none(seed):
    model, wanted = model_of(seed=seed)
    units = gated_neurons(model, seed=seed)
    for kind in CLASSES:
        planted = {name for name, its in wanted.items() if its == kind}
        if kind != "orthogonal output":
            assert names(members(units, kind)) == planted and len(planted) == 16
    assert units.table["counts"].values.sum() == 600
    assert units.table["counts_mismatched"].values[:, CLASSES.index("orthogonal output")].sum() == 600
    quiet, _ = model_of(seed=seed, null=True)
    table = gated_neurons(quiet, seed=seed).table
    assert set(table["class"].values) == {"orthogonal output"} and not (table["q"].values <= 0.01).any()


def test_gains_must_be_folded_in():
    model, wanted = model_of()
    with torch.no_grad():
        norm = model.module.model.layers[0].post_attention_layernorm.weight
        wild = torch.exp(1.5 * torch.randn(norm.shape, generator=torch.Generator().manual_seed(3)))
        for name in ("gate_proj", "up_proj"):
            getattr(model.module.model.layers[0].mlp, name).weight.div_(wild / norm)
        norm.copy_(wild)

    def right(units):
        table = units.table
        said = {
            f"L{a}.N{b}": c for a, b, c in zip(*(table[n].values for n in ("layer", "index", "class")), strict=True)
        }
        return np.mean([said[name] == kind for name, kind in wanted.items() if name.startswith("L0")])

    assert right(gated_neurons(model)) == 1.0 and right(gated_neurons(model, fold=False)) < 0.9


def test_classes_do_what_they_are_called():
    """A stream along what the neuron reads leaves its MLP with more of it, or less."""
    model, _ = model_of()
    units = gated_neurons(model)
    for kind, grows in (("enrichment", True), ("depletion", False)):
        site = members(units, kind)[0]
        block = model.module.model.layers[site.layer]
        n = site.units[0]
        up = block.mlp.up_proj.weight[n] * block.post_attention_layernorm.weight
        gate = block.mlp.gate_proj.weight[n] * block.post_attention_layernorm.weight
        along = torch.nn.functional.normalize((up + torch.sign(up @ gate) * gate).detach(), dim=0)
        x = 4.0 * along[None, None]
        with torch.no_grad():
            added = block.mlp(block.post_attention_layernorm(x))[0, 0] @ along
        assert bool(added > 0) == grows and abs(float(added)) > 0.5


def test_detectors_rank_planted_neurons_first():
    model, wanted = model_of()
    found = find_neurons(model, ["enrichment", "depletion"])
    for name, kinds in (
        ("enrichment", {"enrichment", "conditional enrichment"}),
        ("depletion", {"depletion", "conditional depletion"}),
    ):
        planted = {at for at, kind in wanted.items() if kind in kinds}
        assert names(found.units[name].top(32)) == planted
        assert planted <= names(found.units[name].top(600, q_max=0.05))
    quiet = find_neurons(model_of(null=True)[0], ["enrichment", "depletion"])
    assert all(len(units.top(600, q_max=0.05)) <= 1 for units in quiet.units.values())


def test_models_without_gates_and_wrong_requests_are_one_line():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=60, bos_token_id=0, eos_token_id=0)
    plain = load_model(GPT2LMHeadModel(config).eval())
    with pytest.raises(SiteError, match="has no gated MLP; this method reads gates: use a model with a gated MLP"):
        gated_neurons(plain)
    found = find_neurons(plain)  # the others go on
    assert set(found.skipped) >= {"enrichment", "depletion"} and "vocabulary" in found.units
    model, _ = model_of()
    with pytest.raises(InputError, match="no cosine between 0 and 1"):
        gated_neurons(model, threshold=1.5)
    with pytest.raises(InputError, match="no class is called 'rich'"):
        members(gated_neurons(model), "rich")
