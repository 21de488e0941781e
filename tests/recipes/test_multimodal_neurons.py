"""multimodal-neurons: planted translators are found, read, located and needed; pictures of nothing and null twins stay silent."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from conceptlab.errors import DataError, InputError
from conceptlab.find.neurons.multimodal_neurons import Pictures, activation_map, multimodal_neurons, without_neurons
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.multimodal_neurons import on_world, reproduce
from conceptlab.worlds.shape_captions import shape_captions
from tests.recipes.findings import quick_form


@pytest.fixture(scope="module")
def case():
    world = shape_captions(n_pictures=6, seed=10)
    model = load_model(world.model, tokenizer=world.tokenizer)
    ids = [world.tokenizer.get_vocab()[noun] for noun in world.nouns]
    return world, model, ids, Pictures.of(model, world.texts, world.soft, world.places)


def nouns_of(world):
    return [world.tokenizer.get_vocab()[noun] for noun in world.neurons]


@pytest.mark.parametrize("seed", [12, 13])
def test_the_quick_form_holds_and_its_null_twin_does_not(seed):
    done = quick_form(reproduce, seed=seed)
    assert done.holds and len(done.findings) == 5 and all(f.holds for f in done.findings)
    twin = on_world(shape_captions(n_pictures=16, seed=seed, null=True), Setup(quick=True, seed=seed))
    assert [f.holds for f in twin.findings[:2]] == [False, False] and twin.findings[-1].value <= 0.1


def test_the_planted_neuron_is_first_and_fires_on_the_object(case):
    world, model, ids, pictures = case
    found = multimodal_neurons(pictures, ids, nouns_of(world))
    for picture, noun in enumerate(world.nouns):
        layer, neuron = np.unravel_index(found["score"].values[picture].argmax(), found["score"].shape[1:])
        assert f"L{layer}.N{neuron}" == world.neurons[noun] and found["q"].values[picture, layer, neuron] <= 0.05
        fires = activation_map(pictures, int(layer), [int(neuron)] * 6)[picture]
        assert fires[world.objects[picture]].min() > 0.4 > fires[~world.objects[picture]].max()


def test_scores_are_activation_times_gradient(case):
    """Beside finite differences of the noun's logit, one neuron moved on all patches by a share of its activation."""
    world, model, ids, pictures = case
    found = multimodal_neurons(pictures, ids, nouns_of(world), n_random=1)
    layer, neuron = world.neurons[world.nouns[0]][1:].split(".N")
    mask = np.zeros((6, model.d_mlp), dtype=bool)
    mask[0, int(neuron)] = True
    clean, without = pictures.values(ids), pictures.values(ids, off={int(layer): mask})
    assert (clean - without)[0] > 1 and np.allclose(clean[1:], without[1:], atol=1e-5)
    assert found["score"].values[0, int(layer), int(neuron)] > 0


def test_only_the_best_neurons_are_needed(case):
    world, model, ids, pictures = case
    found = multimodal_neurons(pictures, ids, nouns_of(world))
    lost = without_neurons(pictures, found, ids, top=1, n_random=5)
    assert (lost["score"].values > 1).all() and abs(lost["control"].values).max() < 0.5


def test_soft_tokens_take_the_place_of_the_words_alone(case):
    world, model, ids, pictures = case
    plain = model.capture(list(world.texts), "embed", positions="all")["embed"].unflatten(0, (6, -1))
    own = Pictures.of(model, world.texts, plain[:, list(world.places)], world.places)
    logits = model.logits(list(world.texts)).log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert np.allclose(own.values(ids), logits.numpy(), atol=1e-4)


def test_wrong_input_is_one_clear_line(case):
    world, model, ids, pictures = case
    with pytest.raises(InputError, match="soft tokens are"):
        Pictures.of(model, world.texts, world.soft[:, :3], world.places)
    with pytest.raises(InputError, match="give one length"):
        Pictures.of(model, world.texts, world.soft, (99,) * 16)
    with pytest.raises(InputError, match="5 nouns for 6 pictures"):
        multimodal_neurons(pictures, ids[:-1], nouns_of(world))
    with pytest.raises(InputError, match="more others"):
        multimodal_neurons(pictures, ids, ids[:2])
    with pytest.raises(InputError, match="takes --model and --data together"):
        reproduce(Setup(quick=True, model=model))


def written(folder, world, **more):
    """What a user's adapter would give of the world's pictures."""
    folder.mkdir(exist_ok=True)
    rows = [f"{text},{noun}" for text, noun in zip(world.texts, world.nouns, strict=True)]
    (folder / "pictures.csv").write_text("\n".join(["text,noun", *rows]))
    save_file(
        {"soft": world.soft.contiguous(), "places": torch.tensor(world.places), **more}, folder / "soft.safetensors"
    )
    return folder


def test_a_users_model_and_soft_tokens(tmp_path):
    world = shape_captions(n_pictures=16, seed=1)
    model = load_model(world.model, tokenizer=world.tokenizer)
    known = {"objects": torch.tensor(world.objects).float(), "others": world.others.contiguous()}
    whole = reproduce(Setup(quick=True, model=model, data=written(tmp_path / "whole", world, **known)))
    assert len(whole.findings) == 5 and whole.holds and not whole.notes
    bare = reproduce(Setup(quick=True, model=model, data=written(tmp_path / "bare", world)))
    assert len(bare.findings) == 3 and len(bare.notes) == 2
    silent = shape_captions(n_pictures=16, seed=1, null=True)
    model = load_model(silent.model, tokenizer=silent.tokenizer)
    assert not reproduce(Setup(quick=True, model=model, data=written(tmp_path / "null", silent))).holds


def test_a_users_folder_that_does_not_fit_is_one_line(case, tmp_path):
    world, model, _, _ = case
    with pytest.raises(DataError, match="needs pictures.csv"):
        reproduce(Setup(quick=True, model=model, data=tmp_path))
    folder = written(tmp_path / "odd", world, objects=torch.zeros(2, 2))
    with pytest.raises(DataError, match="objects is .picture, place."):
        reproduce(Setup(quick=True, model=model, data=folder))
    (folder / "soft.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read"):
        reproduce(Setup(quick=True, model=model, data=folder))
    save_file(
        {"soft": world.soft[..., :3].contiguous(), "places": torch.tensor(world.places)}, folder / "soft.safetensors"
    )
    with pytest.raises(InputError, match="soft tokens are"):
        reproduce(Setup(quick=True, model=model, data=folder))
    (folder / "pictures.csv").write_text("text,noun\n" + f"{world.texts[0]},{world.nouns[0]}")
    with pytest.raises(InputError, match="1 nouns differ"):
        reproduce(Setup(quick=True, model=model, data=folder))
