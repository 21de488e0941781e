"""lm-head-neurons: holds on the planted and the embedded model, names nothing in the null twin, and takes a user's two models."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conceptlab.errors import ConceptlabError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.lm_head_neurons import _best, _map, _said, on_world, reproduce
from conceptlab.worlds.default import default_concepts, default_model_path
from conceptlab.worlds.planted_neurons import planted_neurons
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls(tmp_path):
    done = quick_form(reproduce, cache=tmp_path)
    found = {f.name: f for f in done.findings}
    assert done.holds and len(found) == 9
    rise = next(f for name, f in found.items() if name.startswith("rise"))
    assert rise.low > rise.control > 0
    kept = found["neurons that keep the top word of their up vector when tuned"]
    assert kept.value >= 0.75 and kept.control <= 0.1
    assert done.provenance.causal == "ablation" and {"out", "up", "gate", "planted", "clamp curve"} <= set(done.results)


@pytest.mark.parametrize("seed", [1, 2])
def test_worlds_hold_and_null_twins_do_not(seed):
    assert on_world(planted_neurons(seed=seed), seed=seed).holds
    quiet = on_world(planted_neurons(seed=seed, null=True), seed=seed)
    assert quiet.findings[0].value == 0 and quiet.findings[0].holds is False
    assert quiet.findings[1].holds


def test_the_held_neuron_is_asked_of_all_kinds_of_texts_at_its_reach_on_all_of_them():
    # in the concepts' order the first texts are of one kind, which ends before a word can be said and where the neuron is quiet
    model = load_model(default_model_path())
    texts = [text for concept in default_concepts() for text in concept.texts[:8]]
    neuron, _, sign, word = _best(_map(model, "out", 0))
    said = _said(model, texts, neuron, word, sign, quick=True, seed=0)
    assert said.holds and said.value == 1.0 and said.control < 0.3


def test_a_users_model_and_its_tuned_form(tmp_path):
    world = planted_neurons(seed=3)
    world.save(tmp_path / "tuned")
    model = load_model(world.model, tokenizer=world.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=tmp_path / "tuned"))
    kept = next(f for f in done.findings if "keep the top word" in f.name)
    assert kept.value == 1.0  # a model beside itself
    alone = reproduce(Setup(quick=True, model=model))
    assert len(alone.findings) == len(done.findings) - 2


def test_what_cannot_be_asked_is_one_line(tmp_path):
    with pytest.raises(InputError, match="give both"):
        reproduce(Setup(quick=True, data=tmp_path))
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=60, bos_token_id=0, eos_token_id=0)
    model = load_model(GPT2LMHeadModel(config).eval())
    with pytest.raises(ConceptlabError, match="tokenizer"):
        reproduce(Setup(quick=True, model=model))
