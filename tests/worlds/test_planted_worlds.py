"""What every planted model must hold: ordinary folders, one seed one world, words that round-trip, like-shaped twins."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conceptlab.errors import ResultError
from conceptlab.worlds.all_planted import PLANTED
from conceptlab.worlds.planted import PlantedWorld
from conceptlab.worlds.weights_by_hand import Head, Layout, Neuron, empty_gpt2, empty_llama, set_head, set_neuron

from .plain_hooks import last_logits, out_hooks, pre_hooks

NAMES = tuple(PLANTED)


@pytest.fixture(scope="module")
def worlds():
    return {name: build() for name, build in PLANTED.items()}


def first_prompts(world, n=8):
    return next(iter(world.prompts.values()))[:n]


def test_each_is_listed_under_its_name(worlds):
    assert {name: world.name for name, world in worlds.items()} == {name: name for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_it_saves_an_ordinary_folder_with_its_truth(name, worlds, tmp_path):
    world, texts = worlds[name], first_prompts(worlds[name])
    world.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    batch = dict(AutoTokenizer.from_pretrained(tmp_path)(list(texts), return_tensors="pt", padding=True))
    assert set(batch) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, world.model(**batch).logits)
    assert json.loads((tmp_path / "truth.json").read_text())["truth"] == world.truth
    again = PlantedWorld.load(tmp_path)
    assert (again.name, again.host, again.null) == (world.name, world.host, False)
    assert again.prompts == world.prompts and again.answers == world.answers and again.truth == world.truth
    assert torch.equal(last_logits(again, texts), last_logits(world, texts))
    if world.concepts is not None:
        for concept in world.concepts:
            same = again.concepts[concept.name]
            ours, theirs = (np.array(c.class_names)[c.labels].tolist() for c in (concept, same))
            assert same.texts == concept.texts and ours == theirs


@pytest.mark.parametrize("name", NAMES)
def test_words_go_through_the_tokenizer_and_back(name, worlds):
    world = worlds[name]
    for texts in world.prompts.values():
        ids = world.tokenizer(list(texts))["input_ids"]
        assert all(row[0] == world.tokenizer.bos_token_id for row in ids)
        assert not any(world.tokenizer.unk_token_id in row for row in ids)
        assert max(map(len, ids)) <= world.tokenizer.model_max_length
        assert tuple(world.tokenizer.batch_decode(ids, skip_special_tokens=True)) == texts


@pytest.mark.parametrize("name", NAMES)
def test_clean_and_corrupted_rows_align(name, worlds):
    families = [family for family in worlds[name].answers if family in ("clean", "key", "query", "swapped")]
    for rows in zip(*(worlds[name].prompts[family] for family in families), strict=True):
        assert len({len(row.split()) for row in rows}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_one_world_and_leaves_the_random_state(name, worlds):
    before = torch.random.get_rng_state()
    again, other = PLANTED[name](seed=0), PLANTED[name](seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    for weight, same in zip(worlds[name].model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(weight, same)
    assert again.prompts == worlds[name].prompts and again.truth == worlds[name].truth
    assert other.prompts != again.prompts


@pytest.mark.parametrize("name", NAMES)
def test_the_null_twin_has_the_same_shapes_and_prompts(name, worlds):
    world, twin = worlds[name], PLANTED[name](null=True)
    shapes, twins = ({n: p.shape for n, p in w.model.named_parameters()} for w in (world, twin))
    assert shapes == twins and twin.null and not world.null
    assert twin.prompts == world.prompts and twin.answers == world.answers
    # saving fills in these two
    ours, theirs = ({**w.model.config.to_dict(), "architectures": None, "dtype": None} for w in (world, twin))
    assert ours == theirs
    assert not any(torch.is_tensor(value) for value in twin.truth.values())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "planted_neurons"])
def test_neutral_norms_change_the_stream_by_less_than_a_thousandth(name, worlds):
    model, errors, read = worlds[name].model, [], []
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]

    def compare(out):
        errors.append(float((out - read.pop()).abs().max() / out.abs().max()))

    with pre_hooks(*((norm, lambda x: read.append(x)) for norm in norms)), out_hooks(*((n, compare) for n in norms)):
        last_logits(worlds[name], first_prompts(worlds[name], 64))
    assert len(errors) == len(norms) >= 5 and max(errors) < 1e-3


@pytest.mark.parametrize("damage", ["missing", "torn", "newer", "incomplete"])
def test_a_damaged_truth_is_refused_in_one_line(damage, worlds, tmp_path):
    worlds["ioi"].save(tmp_path)
    path = tmp_path / "truth.json"
    record = json.loads(path.read_text())
    if damage == "missing":
        path.unlink()
    elif damage == "torn":
        path.write_text(path.read_text()[:100])
    elif damage == "newer":
        path.write_text(json.dumps({**record, "schema": 99}))
    else:
        path.write_text(json.dumps({"schema": 1}))
    with pytest.raises(ResultError, match=r"truth\.json") as caught:
        PlantedWorld.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_host_refuses_what_it_cannot_hold():
    sizes = {"n_layers": 1, "n_heads": 2, "d_head": 4, "d_mlp": 2, "d_vocab": 5, "n_positions": 4}
    gpt2, llama = empty_gpt2(**sizes), empty_llama(**sizes)
    plain = Neuron(w_in=torch.ones(8), w_out=torch.ones(8))
    gated = Neuron(w_in=torch.ones(8), w_out=torch.ones(8), w_gate=torch.ones(8))
    for model, neuron in ((gpt2, gated), (llama, plain)):
        with pytest.raises(ValueError, match="w_gate"):
            set_neuron(model, 0, 0, neuron)
    with pytest.raises(ValueError, match="no attention biases"):
        set_head(llama, 0, 0, Head(q_bias=torch.ones(4)))
    with pytest.raises(ValueError, match="do not fit"):
        Layout.of(4, tok=3, pos=2)
