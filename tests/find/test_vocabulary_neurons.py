"""Neurons through the unembedding: planted ones name their word, null twins and random directions do not."""

import numpy as np
import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from conceptlab.errors import InputError, SiteError
from conceptlab.evidence.isotropic import largest_cosine_draws, largest_cosine_p
from conceptlab.find.neurons.find_neurons import find_neurons
from conceptlab.find.neurons.vocabulary_neurons import neurons_by_token, vocabulary_neurons
from conceptlab.measure.effects.clamp_curve import clamp_curve
from conceptlab.measure.geometry.token_stability import token_stability
from conceptlab.model import Batch, load_model
from conceptlab.model.neuron_weights import end_gain, neuron_weights
from conceptlab.model.vocabulary import learned_vocabulary
from conceptlab.results import Site
from conceptlab.worlds.planted_neurons import planted_neurons


def model_of(*, seed=0, null=False):
    world = planted_neurons(seed=seed, null=null)
    return load_model(world.model, tokenizer=world.tokenizer), world


@pytest.fixture(scope="module")
def planted():
    return model_of()


def small(kind):
    torch.manual_seed(0)
    if kind == "gpt2":
        size = {"n_embd": 32, "n_head": 2, "n_layer": 2, "vocab_size": 90, "n_positions": 16}
        module = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=1, eos_token_id=1))
    else:
        size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
        module = Gemma2ForCausalLM(Gemma2Config(num_hidden_layers=2, vocab_size=90, head_dim=16, **size))
    for name, weight in module.named_parameters():
        if "norm" in name or "ln_" in name:
            torch.nn.init.normal_(weight, 1.0, 0.3)
    return load_model(module.eval())


@pytest.mark.parametrize("seed", range(3))
def test_planted_neurons_name_their_word_and_the_null_twin_is_silent(seed):
    model, world = model_of(seed=seed)
    by_token = neurons_by_token(vocabulary_neurons(model, seed=seed))
    for name, neuron in world.truth["neurons"].items():
        layer, index = (int(part[1:]) for part in name.split("."))
        assert (layer, index, 1) in by_token[neuron["token"]]
    quiet = vocabulary_neurons(model_of(seed=seed, null=True)[0], seed=seed)
    assert not neurons_by_token(quiet, q_max=0.01)


def test_the_detector_ranks_the_same_and_finds_few_others(planted):
    model, world = planted
    units = find_neurons(model, ["vocabulary"]).units["vocabulary"]
    found = {f"L{s.layer}.N{s.units[0]}" for s in units.top(400, q_max=0.05)}
    assert set(world.truth["neurons"]) <= found and len(found) <= 22
    direct = vocabulary_neurons(model).table
    assert np.allclose(units.table["score"], direct["score"], atol=1e-6)
    assert not set(np.flatnonzero(direct["q"].values <= 0.01)) - set(np.flatnonzero(units.table["q"].values <= 0.05))


@pytest.mark.parametrize("kind", ["gpt2", "gemma"])
@pytest.mark.parametrize("vector", ["out", "up"])
def test_vectors_with_gains_are_what_the_model_does(kind, vector):
    """Against the module itself: a write along w_out moves the lens by the folded logits, a read is the projection of the norm."""
    model = small(kind)
    batch = Batch(((3, 5, 8, 13),))
    weights = neuron_weights(model)[1]
    if vector == "out":
        row = vocabulary_neurons(model, k=4).table.isel(unit=len(weights.out) + 7)
        folded = end_gain(model).of(weights.out[7])
        plain = (model.unembedding @ folded).detach()
        assert plain.topk(4).indices.tolist() == row["ids"].values[0].tolist()
        assert np.allclose(plain.topk(4).values, row["logits"].values[0], atol=1e-5)
        assert np.allclose((-plain).topk(4).values, -row["logits"].values[1], atol=1e-5)
    else:
        acts = model.capture(batch, ["resid_mid", "mlp_pre" if kind == "gpt2" else "mlp_pre_linear"], positions="all")
        stream, made = acts.at("resid_mid", 1), acts.at("mlp_pre" if kind == "gpt2" else "mlp_pre_linear", 1)
        read = stream @ weights.reads("up").T
        centred, by = (
            made - made[:1],
            read / stream.sub(stream.mean(1, keepdim=True) * (kind == "gpt2")).norm(dim=1)[:, None],
        )
        assert np.corrcoef(centred.flatten(), (by - by[:1]).flatten())[0, 1] > 0.9999


def test_the_null_is_that_of_random_directions():
    generator = torch.Generator().manual_seed(0)
    tokens, drawn = torch.randn(200, 48, generator=generator), torch.randn(4000, 48, generator=generator)
    cosine = torch.nn.functional.normalize(drawn, dim=1) @ torch.nn.functional.normalize(tokens, dim=1).T
    largest = cosine.abs().amax(1).numpy()
    for level in (0.01, 0.05):
        share = (largest_cosine_p(largest, 200, 48) <= level).mean()
        assert share <= level + 3 * (level / 4000) ** 0.5 and share >= 0.5 * level
    null = largest_cosine_draws((20, 300), 200, 48)
    at = np.quantile(null, [0.95, 0.999])
    assert np.allclose(largest_cosine_p(at, 200, 48), [0.05, 0.001], rtol=0.1)


def test_rows_that_were_never_learned_are_counted_and_left_out():
    model, _ = model_of()
    weight = model.unembedding.data
    weight[10] = 0.0
    weight[20] = 0.05 * weight[20]
    weight[30] = weight[31]
    found = learned_vocabulary(model)
    assert found.to_record() == {"kept": len(weight) - 4, "unused": 0, "repeated": 2, "undertrained": 2}
    units = vocabulary_neurons(model)
    assert not {10, 20, 30, 31} & set(units.table["ids"].values.ravel().tolist())
    assert "left out of 101: 2 repeated, 2 undertrained" in units.scores.provenance.warnings[0]


def test_tuned_neurons_keep_their_word_and_others_do_not(planted):
    base = vocabulary_neurons(planted[0])
    tuned, _ = model_of()
    with torch.no_grad():
        for name, weight in tuned.module.named_parameters():
            if "down_proj" in name:
                weight += 0.003 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    kept = token_stability(base, vocabulary_neurons(tuned))
    at = kept.data.sel(set="specialised")
    assert (
        float(at["score"]) >= 0.9
        and float(at["control"]) <= 0.2
        and float(kept["score"][0]) > float(kept["control"][0])
    )
    other = token_stability(base, vocabulary_neurons(model_of(seed=5, null=True)[0]))
    assert float(other["score"][0]) <= 0.05
    with pytest.raises(InputError, match="not have the same neurons"):
        token_stability(base, vocabulary_neurons(small("gpt2")))


def test_clamping_a_planted_neuron_says_its_word_and_no_random_one_does(planted):
    model, world = planted
    name, neuron = next(iter(world.truth["neurons"].items()))
    token = world.tokenizer.get_vocab()[neuron["token"]]
    texts = [*world.prompts[name][:4], *world.prompts["plain"][:12]]
    curve = clamp_curve(model, texts, Site.parse(f"{name}.mlp_post"), token, factors=[1.0, 2.0])
    assert bool((curve["score"] > curve["control_high"]).all()) and bool((curve["score"] > 2).all())
    assert bool((curve["p"] <= 0.01).all())
    fired = Site("mlp_post", 0, (next(i for i in range(128) if f"L0.N{i}" not in world.truth["neurons"]),))
    silent = clamp_curve(model, texts, fired, token, factors=[2.0])
    assert float(silent["p"][0]) > 0.01


def test_a_wrong_request_is_one_line(planted):
    with pytest.raises(InputError, match="no vector 'down'; use out, up or gate"):
        vocabulary_neurons(planted[0], "down")
    with pytest.raises(SiteError, match="has no gated MLP; this method reads gates"):
        vocabulary_neurons(small("gpt2"), "gate")
    with pytest.raises(SiteError, match="names unit 900"):
        clamp_curve(planted[0], ["a"], Site("mlp_post", 0, (900,)), 3)
