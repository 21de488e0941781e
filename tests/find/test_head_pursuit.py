"""Head pursuit: heads that speak about a concept come first with the planted words, and heads that write anything are silent."""

import numpy as np
import pytest
import torch

from conceptlab.data.concept_answers import read_concept_answers, single_tokens
from conceptlab.errors import DataError, InputError
from conceptlab.find.heads.head_pursuit import head_pursuit, said_words, spoken
from conceptlab.model import load_model
from conceptlab.numerics.matching_pursuit import pursue
from conceptlab.results import Units
from conceptlab.worlds.speaking_heads import KINDS, speaking_heads


def made(seed, **options):
    world = speaking_heads(n_prompts=90, seed=seed, **options)
    return world, load_model(world.model, tokenizer=world.tokenizer)


def named(units):
    return {f"L{s.layer}.H{s.units[0]}" for s in units.top(99, q_max=0.05)}


@pytest.mark.parametrize("seed", [40, 41])
def test_planted_heads_and_words_are_found(seed, tmp_path):
    world, model = made(seed)
    texts = list(world.prompts["asked"])
    heard = spoken(model, texts)
    for kind, words in KINDS.items():
        tokens = single_tokens(model, words)
        units = head_pursuit(model, texts, list(tokens.values()), heard=heard, seed=seed)
        assert named(units) == set(world.truth["heads"][kind])
        table = units.table
        best = int(np.argmax(table["score"].values))
        assert float(table["score"][best]) > 0.99 > 0.5 > float(table["control"][best])
        used = {model.tokenizer.convert_ids_to_tokens(int(t)) for t in table["atoms"].values[best] if t >= 0}
        assert used == set(world.truth["words"][kind])
        for name in world.truth["heads"][kind]:
            said = said_words(model, [], int(name[1]), int(name[4]), n_steps=len(used), heard=heard)
            assert set(model.tokenizer.convert_ids_to_tokens(said.atoms.tolist())) == used  # of the whole vocabulary
    units.save(tmp_path / "heads")
    assert np.array_equal(Units.load(tmp_path / "heads").table["atoms"], units.table["atoms"])


@pytest.mark.parametrize("seed", [42, 43, 44])
def test_heads_that_write_anything_are_silent(seed):
    world, model = made(seed, null=True)
    texts = list(world.prompts["asked"])
    for words in KINDS.values():
        assert not named(head_pursuit(model, texts, list(single_tokens(model, words).values()), seed=seed))


def test_a_rotation_takes_the_concept_away():
    world, model = made(45)
    heard, rng = spoken(model, list(world.prompts["asked"])), torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(model.d_model, model.d_model, generator=rng))[0]
    tokens = torch.tensor(list(single_tokens(model, KINDS["colour"]).values()))
    outputs, words = heard.of(1, 0), heard.words(tokens)
    assert pursue(outputs, words, 12).fve[-1] > 0.99 and pursue(outputs @ turn, words, 12).fve[-1] < 0.2


def test_one_step_on_one_output_is_the_lens():
    world, model = made(46)
    heard = spoken(model, list(world.prompts["asked"][:6]))
    rows = heard.words(torch.arange(len(heard.atoms)), unit=False)
    compared = 0
    for layer, outputs in heard.outputs.items():
        with torch.no_grad():
            logits = model.lens(outputs) - model.lens(torch.zeros_like(outputs))
        for text in range(6):
            for head in range(model.n_heads):
                if logits[text, head].abs().max() > 1e-3:
                    best = int(pursue(outputs[text : text + 1, head], rows, 1).atoms[0])
                    assert best == int(logits[text, head].abs().argmax()), (layer, head)
                    compared += 1
    assert compared > 60


def test_bad_input_is_one_line(tmp_path):
    world, model = made(47)
    texts = list(world.prompts["asked"][:4])
    for concept, says in (
        ([5], "1 words cannot show"),
        ([5, 10**6], "has tokens 0 to"),
        (range(3, 70), "leaves too few others"),
    ):
        with pytest.raises(InputError, match=says):
            head_pursuit(model, texts, list(concept))
    with pytest.raises(InputError, match="1 of 2 words are one token"):
        single_tokens(model, ["red", "ultramarine"])
    with pytest.raises(InputError, match=r"no L9\.H0"):
        said_words(model, texts, 9, 0)
    path = tmp_path / "rows.csv"
    path.write_text("text,answer\na,b\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'concept'"):
        read_concept_answers(path)
