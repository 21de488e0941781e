"""Concept consistency: heads of one concept score 1 with its label, mixed ones 0.2, and shuffled concepts are the null."""

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError
from conceptlab.find.heads.concept_consistency import at_least, concept_consistency
from conceptlab.find.heads.head_pursuit import spoken
from conceptlab.model import load_model
from conceptlab.results import Units
from conceptlab.worlds.scene_heads import scene_heads


def synthetic(seed=0, n=500, d=64):
    """Twelve heads after the specification: six vary along five texts of one concept, six along one text of each."""
    rng = torch.Generator().manual_seed(seed)
    texts = torch.nn.functional.normalize(torch.randn(50, d, generator=rng), dim=1)
    spread = torch.tensor([3.0, 2.4, 2.0, 1.6, 1.3])
    heads = []
    for head in range(12):
        which = [10 * (head % 5) + i for i in range(5)] if head < 6 else [10 * i + head % 10 for i in range(5)]
        heads.append(torch.randn(n, 5, generator=rng) * spread @ texts[which])
    return torch.stack(heads, 1).unflatten(1, (2, 6)), texts, [f"concept {i // 10}" for i in range(50)]


def contributions(world):
    model = load_model(world.model, tokenizer=world.tokenizer)
    heard = spoken(model, list(world.prompts["scenes"]))
    texts = heard.words(torch.tensor(model.tokenizer.convert_tokens_to_ids(world.truth["texts"])))
    return torch.stack([heard.outputs[layer] for layer in range(4)], 1), texts, world.truth["kinds"]


def test_the_check_of_the_specification(tmp_path):
    units = concept_consistency(*synthetic(), seed=1)
    table = units.table
    assert table["score"].values.tolist() == [1.0] * 6 + [0.2] * 6
    assert [str(label) for label in table["label"].values[:6]] == [f"concept {i % 5}" for i in range(6)]
    assert (table["q"].values[:6] <= 0.05).all() and (table["q"].values[6:] > 0.05).all()
    assert 0.3 < float(table["control"].mean()) < 0.6 and at_least(units, 1.0) == 0.5
    units.save(tmp_path / "heads")
    assert (Units.load(tmp_path / "heads").table["label"] == table["label"]).all()


@pytest.mark.parametrize("seed", [80, 81])
def test_heads_of_the_dual_encoder(seed):
    world = scene_heads(n_scenes=100, seed=seed)
    units = concept_consistency(*contributions(world), seed=seed)
    table = units.table
    full = {f"L{s.layer}.H{s.units[0]}" for s in units.top(int((table["score"] == 1).sum()), q_max=0.05)}
    assert full == set(world.truth["pure"].values())
    names = [f"L{a}.H{b}" for a, b in zip(table["layer"].values, table["index"].values, strict=True)]
    for kind, head in world.truth["pure"].items():
        assert str(table["label"].values[names.index(head)]) == kind
    assert max(float(table["score"][names.index(head)]) for head in world.truth["mixed"]) <= 0.4


@pytest.mark.parametrize("seed", [82, 83, 84])
def test_heads_that_write_anything_are_silent(seed):
    units = concept_consistency(*contributions(scene_heads(n_scenes=100, seed=seed, null=True)), seed=seed)
    assert not units.top(99, q_max=0.05) and at_least(units, 1.0) == 0


def test_concepts_shuffled_over_texts_take_the_score_away():
    heads, texts, concepts = synthetic(2)
    shuffled = np.random.default_rng(0).permutation(concepts).tolist()
    assert concept_consistency(heads, texts, shuffled).table["score"].max() <= 0.6


def test_bad_input_is_one_line():
    heads, texts, concepts = synthetic(n=20)
    for given, says in (
        ((heads[..., :5], texts, concepts), "of one joint space"),
        ((heads, texts, concepts[:9]), "50 texts came with 9 labels"),
        ((heads, texts, ["one"] * 50), "labels of 1 concepts"),
        ((heads[:3], texts, concepts), "3 images and 50 texts are too few"),
        ((heads * float("nan"), texts, concepts), "values that are no numbers"),
    ):
        with pytest.raises(InputError, match=says):
            concept_consistency(*given)
