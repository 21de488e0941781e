"""Planted neurons: when they fire, what they write, and what clamping them does, in a host with an ordinary norm."""

from functools import cache

import pytest
import torch

from conceptlab.worlds.planted_neurons import planted_neurons

from .plain_hooks import accuracy, down_projection, last_logits, pre_hooks, record, tokens


@cache
def world(null: bool = False, seed: int = 0):
    return planted_neurons(seed=seed, null=null)


def place(name: str) -> tuple[int, int]:
    layer, neuron = name.split(".N")
    return int(layer[1:]), int(neuron)


def last_of(planted, texts):
    return tokens(planted, texts)["attention_mask"].sum(-1) - 1


@cache
def activations(null: bool, family: str) -> torch.Tensor:
    """Neurons [layer, row, d_mlp] at the last word."""
    planted = world(null)
    texts = planted.prompts[family]
    seen = record(planted, texts, [down_projection(planted.model, layer) for layer in range(3)])
    last = last_of(planted, texts)
    return torch.stack([x[torch.arange(len(last)), last] for x in seen])


def clamped(planted, name: str, value: float, scale: float = 1.0) -> torch.Tensor:
    """Next-word probabilities after `plain`, with one neuron clamped at the last word (its output scaled)."""
    layer, neuron = place(name)
    last = last_of(planted, planted.prompts["plain"])

    def change(neurons):
        neurons = neurons.clone()
        neurons[torch.arange(len(last)), last, neuron] = value * scale
        return neurons

    with pre_hooks((down_projection(planted.model, layer), change)):
        return last_logits(planted, planted.prompts["plain"]).softmax(-1)


def token_id(planted, word: str) -> int:
    return planted.tokenizer.convert_tokens_to_ids(word)


def test_twenty_neurons_over_three_layers():
    names = list(world().truth["neurons"])
    assert len(names) == 20 and {place(name)[0] for name in names} == {0, 1, 2}


@pytest.mark.parametrize("seed", [0, 1])
def test_after_a_trigger_the_target_comes_next(seed):
    planted = world(seed=seed)
    for name in planted.truth["neurons"]:
        assert accuracy(planted, name) == planted.truth["accuracy"] == 1.0


def test_each_neuron_fires_on_its_triggers_alone():
    planted = world()
    for name in planted.truth["neurons"]:
        layer, neuron = place(name)
        for family in planted.prompts:
            seen = activations(False, family)[layer, :, neuron]
            if family == name:
                assert float(seen.min()) > planted.truth["fires"]
            else:
                assert float(seen.abs().max()) < planted.truth["silent"]


def test_each_neuron_writes_the_unembedding_of_its_target():
    planted = world()
    unembed = planted.model.lm_head.weight.detach()
    for name, neuron in planted.truth["neurons"].items():
        layer, index = place(name)
        written = down_projection(planted.model, layer).weight.detach()[:, index]
        target = token_id(planted, neuron["token"])
        assert int((unembed @ written).argmax()) == target
        assert torch.allclose(written, neuron["strength"] * unembed[target])
        gate = planted.model.model.layers[layer].mlp.gate_proj.weight.detach()[index]
        assert torch.allclose(gate, 2 * torch.tensor(neuron["reads"]), atol=1e-5)


def test_clamping_gives_the_stated_probabilities():
    planted = world()
    truth, tolerance = planted.truth, planted.truth["tolerance"]
    for value, stated in truth["clamped"].items():
        found = [
            clamped(planted, name, float(value))[:, token_id(planted, neuron["token"])].mean()
            for name, neuron in truth["neurons"].items()
        ]
        assert float(torch.stack(found).mean()) == pytest.approx(stated, abs=tolerance["clamped"])


def test_clamping_an_unplanted_neuron_of_equal_norm_does_not():
    planted, generator = world(), torch.Generator().manual_seed(3)
    found = []
    for name, neuron in planted.truth["neurons"].items():
        layer, index = place(name)
        own = [place(other)[1] for other in planted.truth["neurons"] if place(other)[0] == layer]
        free = [i for i in range(128) if i not in own]
        control = free[int(torch.randint(len(free), (1,), generator=generator))]
        norms = down_projection(planted.model, layer).weight.detach().norm(dim=0)
        after = clamped(planted, f"L{layer}.N{control}", 2.0, float(norms[index] / norms[control]))
        found.append(after[:, token_id(planted, neuron["token"])].mean())
    assert float(torch.stack(found).mean()) == pytest.approx(
        planted.truth["clamped_random"], abs=planted.truth["tolerance"]["clamped_random"]
    )
    assert float(torch.stack(found).max()) < 0.12


def test_the_null_twin_neither_fires_nor_answers():
    twin, planted = world(null=True), world()
    assert twin.truth["neurons"] == {} and twin.prompts == planted.prompts
    scores = []
    for name in planted.truth["neurons"]:
        layer, neuron = place(name)
        own, plain = (activations(True, family)[layer, :, neuron] for family in (name, "plain"))
        assert float(own.abs().max()) < planted.truth["silent"]
        assert float(plain.abs().max()) < planted.truth["silent"]
        scores.append(accuracy(twin, name))
    assert sum(scores) / len(scores) < 0.1


def test_each_neuron_has_its_concept():
    planted = world()
    assert [concept.name for concept in planted.concepts] == list(planted.truth["neurons"])
    for concept in planted.concepts:
        triggers = planted.truth["neurons"][concept.name]["triggers"]
        ends = [text.split()[-1] in triggers for text in concept.texts]
        assert ends == concept.labels.astype(bool).tolist() and sum(ends) == len(ends) / 2
