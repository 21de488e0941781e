"""The embedded model: it loads, it knows what its card says, and everything about it can be made again."""

import json
import random
from collections import Counter
from zlib import crc32

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conceptlab.worlds.default import default_concepts, default_model_path
from conceptlab.worlds.default import lexicon as lx
from conceptlab.worlds.default.batches import batches
from conceptlab.worlds.default.concepts import CONCEPTS_FILE, default_rows
from conceptlab.worlds.default.evaluate import answered, held_out_samples
from conceptlab.worlds.default.sample import draw
from conceptlab.worlds.default.skills import SKILLS
from conceptlab.worlds.default.tokenizer import build_tokenizer
from conceptlab.worlds.default.train import Schedule, train
from conceptlab.worlds.default.world import world

N_FRESH = 120


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(default_model_path(), local_files_only=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(default_model_path(), local_files_only=True).eval()


@pytest.fixture(scope="module")
def card():
    return json.loads((default_model_path() / "card.json").read_text())


def test_embedded_folder_is_small_and_holds_finite_weights(model):
    files = [path for path in default_model_path().iterdir() if path.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json", "card.json", "CARD.md"} <= {f.name for f in files}
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    assert all(weight.isfinite().all() for weight in model.parameters())
    assert model.dtype == torch.float32
    assert AutoConfig.from_pretrained(default_model_path()).architectures == ["LlamaForCausalLM"]


@pytest.mark.parametrize("skill", SKILLS)
def test_card_is_reproduced_on_fresh_held_out_samples(model, tokenizer, card, skill):
    stated = card["accuracy"][skill]
    right = answered(model, tokenizer, held_out_samples(skill, N_FRESH, seed=77))
    # 4 standard errors of both samples together, and a floor for accuracies near 1
    margin = 4 * np.sqrt(max(stated * (1 - stated), 0.01) * (1 / N_FRESH + 1 / card["n"]))
    assert abs(np.mean(right) - stated) <= margin


def test_card_sees_a_model_without_training(tokenizer, card):
    torch.manual_seed(0)
    blank = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(default_model_path())).eval()
    right = answered(blank, tokenizer, held_out_samples("categories", N_FRESH, seed=77))
    assert np.mean(right) < card["accuracy"]["categories"] - 0.3


def test_held_out_samples_are_never_trained_on():
    rng = random.Random(3)
    for generator, _ in SKILLS.values():
        kept, trained = ({draw(generator, rng, held).key for _ in range(300)} for held in (True, False))
        assert not kept & trained


def test_tokenizer_round_trips_the_world_and_knows_all_its_words(tokenizer):
    rng = random.Random(11)
    texts = [generator(rng).text for generator, _ in SKILLS.values() for _ in range(200)]
    ids = tokenizer(texts).input_ids
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert {row[0] for row in ids} == {tokenizer.bos_token_id}
    assert tokenizer.unk_token_id not in {token for row in ids for token in row}
    assert tokenizer("Xylophones!").input_ids[1:] == [tokenizer.unk_token_id] * 2
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_labelled_file_is_what_the_code_writes():
    rows = [json.loads(line) for line in CONCEPTS_FILE.read_text().splitlines()]
    assert rows == default_rows()


def test_concepts_are_balanced_grouped_and_in_the_vocabulary(tokenizer):
    concepts = default_concepts()
    assert 10 <= len(concepts) <= 14
    assert {concept.kind for concept in concepts} == {"binary", "classes", "graded"}
    for concept in concepts:
        assert 300 <= concept.n <= 480
        assert len(set(zip(concept.texts, concept.spans, strict=True))) == concept.n
        assert concept.groups is None or len(set(concept.groups.tolist())) >= 10
        if concept.kind != "graded":
            assert len(set(Counter(concept.labels.tolist()).values())) == 1
        words = [word for group in concept.words or () for word in group]
        used = {token for row in tokenizer([*concept.texts, *words]).input_ids for token in row}
        assert tokenizer.unk_token_id not in used
        assert all(len(tokenizer.encode(word, add_special_tokens=False)) == 1 for word in words)


def test_coin_labels_follow_from_nothing_and_adjectives_do_not_give_negated_sentiment_away():
    concepts = default_concepts()
    coin = concepts["coin"]
    by_text_hash = np.array([crc32(text.encode()) % 2 for text in coin.texts])
    assert abs(np.corrcoef(by_text_hash, coin.labels)[0, 1]) < 0.2
    negated = concepts["negated sentiment"]
    polarity = np.array(
        [any(word in lx.GOOD + lx.LIKES for word in text.replace(".", "").split()) for text in negated.texts]
    )
    assert abs(np.corrcoef(polarity, negated.labels)[0, 1]) < 0.15


def test_world_deals_births_evenly():
    people = world().people.values()
    sides = Counter((person.is_woman, world().continent_of(person.born)) for person in people)
    assert len(set(sides.values())) == 1


def test_batches_are_deterministic_and_mark_answers(tokenizer):
    first, again, other = (next(batches(tokenizer, seed, 600, pool=256)) for seed in (4, 4, 5))
    assert torch.equal(first.ids, again.ids)
    assert not (first.ids.shape == other.ids.shape and torch.equal(first.ids, other.ids))
    assert (first.weights[:, 0] == 0).all()
    assert (first.weights[first.ids == tokenizer.pad_token_id] == 0).all()
    assert ((first.weights == 1).sum(1) >= 1).all()


def test_training_lowers_the_loss_and_repeats_itself(tmp_path):
    schedule = Schedule(steps=20, tokens=256, parts=1, warmup=5, pool=1024)
    losses = train(tmp_path / "a", seed=3, schedule=schedule)
    again = train(tmp_path / "b", seed=3, schedule=schedule)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.3
    assert losses == again
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)
