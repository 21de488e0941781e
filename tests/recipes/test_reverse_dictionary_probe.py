"""reverse-dictionary-probe: words are named and read, nothing is where nothing was learnt, the cache is exact, files are read."""

import json

import numpy as np
import pytest
import torch

from conceptlab.data.dictionary import Entry, read_dictionary
from conceptlab.data.similarities import read_similarities
from conceptlab.errors import DataError, InputError, ModelError
from conceptlab.measure.geometry.similarity_alignment import similarity_alignment
from conceptlab.measure.probing.category_centroids import category_centroids
from conceptlab.measure.probing.feature_decoding import feature_decoding
from conceptlab.measure.probing.reverse_dictionary import _demonstrations, name_words, scrambled
from conceptlab.measure.probing.streams import stream_at
from conceptlab.model import load_model
from conceptlab.model.shared_prefix import continue_all
from conceptlab.recipes import Setup
from conceptlab.recipes.reverse_dictionary_probe import on_trained, reproduce
from conceptlab.worlds.trained_dictionary import WIDTHS, dictionary_tokenizer, entries, trained_dictionary
from tests.recipes.findings import by_name, quick_form

SEED = 100
TOY = {"n_demos": 2, "n_draws": 1, "arrow": "=>", "newline": " ; "}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache):
    return load_model(trained_dictionary(WIDTHS[-1], seed=SEED, cache=cache).model, tokenizer=dictionary_tokenizer())


def test_the_quick_form_holds_beside_its_controls(cache, model):
    done = quick_form(reproduce, seed=SEED, cache=cache)
    found = by_name(done)
    assert done.holds and len(found) == 8 and ["none are shipped" in n for n in done.notes] == [True]
    assert found["words named from descriptions"].value >= 0.9 > 0.1 > found["words named from descriptions"].control
    assert found["words named from scrambled descriptions"].value <= 0.1
    category = found["category of words left out, by the nearest centroid"]
    assert category.value - category.control >= 0.3
    probe = found["category probe, beside its control task of random labels a word"]
    assert probe.value - probe.control >= 0.3 and probe.control > 0.3  # the state tells words apart
    assert found["mean AUC of features at their best layers"].value > 0.9
    assert found["rank correlation over widths of words named and words changed"].value >= 0.8


def test_models_that_could_learn_nothing_name_nothing(cache):
    done = on_trained(Setup(quick=True, seed=SEED, cache=cache), null=True)
    found = by_name(done)
    assert not done.holds and found["words named from descriptions"].value < 0.15
    assert not found["category of words left out, by the nearest centroid"].holds


def test_the_shared_beginning_gives_what_whole_texts_give(model):
    rests = [e.description + " =>" for e in entries(SEED, unseen=True)[:9]] + ["like word000 but colour1a =>"]
    beginning = "category0a colour0b size1c => word001 ; "
    found = continue_all(model, beginning, rests, 2)
    whole = [beginning + rest for rest in rests]
    batch = model.encode(whole)
    plain = stream_at(model, batch, [n - 1 for n in batch.lengths])
    torch.testing.assert_close(found.stream, plain, atol=1e-4, rtol=1e-4)
    said = model.generate(whole, max_new_tokens=2)
    assert [model.tokenizer.decode(row) for row in found.ids.tolist()] == said
    before = model.forwards
    continue_all(model, beginning, rests, 1)
    assert model.forwards - before < len(rests)  # the beginning ran once


def test_a_word_that_is_asked_never_stands_in_a_demonstration(model):
    """Every word is in the pool, so with 30 demonstrations most are drawn; copying would be right."""
    asked = [Entry("colour0a", e.word) for e in entries(SEED, unseen=True)[::4]]
    found = name_words(model, asked, asked, n_demos=3, n_draws=2, arrow="=>", newline=" ; ")
    assert found.right.mean() < 0.2 and found.right.shape == (2, 36) and found.stream.shape == (36, 3, WIDTHS[-1])


def test_mismatched_demonstrations_keep_no_word_and_scrambling_keeps_all():
    rng, demos = np.random.default_rng(0), entries(SEED, unseen=False)[::4][:7]
    for _ in range(5):
        lines = _demonstrations(demos, "mismatched", "=>", " ; ", rng).split(" ; ")[:-1]
        said = [line.split(" => ") for line in lines]
        assert [d for d, _ in said] == [e.description for e in demos]
        assert sorted(w for _, w in said) == sorted(e.word for e in demos)
        assert all(w != e.word for (_, w), e in zip(said, demos, strict=True))
    before = ["a b c", "d e", "f"]
    after = scrambled(before, rng)
    assert [len(t.split()) for t in after] == [3, 2, 1] and sorted(" ".join(after).split()) == list("abcdef")


def test_planted_clusters_and_features_are_read_and_dealt_ones_are_not():
    rng = np.random.default_rng(0)
    kinds, centres = np.repeat(np.arange(6), 20), rng.normal(size=(6, 40))
    vectors = torch.tensor(centres[kinds] + rng.normal(size=(120, 40)) / 3, dtype=torch.float32)
    has = rng.random(120) < 0.5
    vectors[:, 0] += torch.tensor(2.0 * has)
    features = [["red"] if h else [] for h in has]
    three = vectors[:, None].repeat(1, 2, 1)
    found = category_centroids(three, [f"k{k}" for k in kinds])
    assert float(found["score"].min()) >= 0.95 and float(found["control"].max()) < 1 / 6 + 0.1
    read = feature_decoding(three, features)
    assert float(read["best"].values[0]) >= 0.95 and float(read["q"].values[0]) <= 0.05
    mixed = three[torch.from_numpy(rng.permutation(120))]
    assert float(category_centroids(mixed, [f"k{k}" for k in kinds])["score"].max()) <= 1 / 6 + 0.1
    assert abs(float(feature_decoding(mixed, features)["score"].values[0, 0]) - 0.5) < 0.12


def test_simulated_people_are_found_alike_and_strangers_are_not():
    rng = np.random.default_rng(1)
    vectors = torch.tensor(rng.normal(size=(24, 1, 10)), dtype=torch.float32)
    unit = torch.nn.functional.normalize(vectors[:, 0], dim=-1)
    noise = rng.normal(size=(8, 24, 24)) / 3
    people = (unit @ unit.T).numpy() + (noise + noise.transpose(0, 2, 1)) / 2
    found = similarity_alignment(vectors, people)
    at = {name: float(found[name].values[0]) for name in ("score", "low", "control", "p")}
    assert at["score"] > 0.85 and at["p"] < 0.01 and 0.8 < found.data.attrs["ceiling"] <= 1
    assert at["low"] < at["score"] and abs(at["control"]) < 0.1
    strangers = similarity_alignment(vectors, noise + noise.transpose(0, 2, 1))
    assert float(strangers["p"].values[0]) > 0.05 and abs(strangers.data.attrs["ceiling"]) < 0.6
    with pytest.raises(InputError, match="one value for each pair"):
        similarity_alignment(vectors, people[:, :3, :3])


def test_a_users_model_and_folder_run(model, tmp_path):
    rows = [{"description": e.description, "word": e.word, "synonyms": "-", "category": e.category,
             "features": ";".join(e.features)} for e in entries(SEED, unseen=True)]  # fmt: skip
    (tmp_path / "dictionary.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_dictionary(tmp_path / "dictionary.jsonl") == entries(SEED, unseen=True)
    words = sorted({r["word"] for r in rows})
    alike = [f"{a},{b},{sum(x == y for x, y in zip(a, b, strict=True))},p{p}" for p in range(2) for i, a in enumerate(words)
             for b in words[:i]]  # fmt: skip
    (tmp_path / "similarities.csv").write_text("\n".join(["a,b,similarity,person", *alike]), encoding="utf-8")
    with pytest.raises(ModelError, match="longer than the context"):  # 18 lines do not fit
        reproduce(Setup(quick=True, model=model, data=tmp_path))
    few = [r for r in rows if r["word"] in words[::5]]
    (tmp_path / "dictionary.jsonl").write_text("\n".join(map(json.dumps, few)), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=model, data=tmp_path))
    found = by_name(done)
    assert done.provenance.n == len(few) and found["words named from descriptions"].holds is None
    assert "split-half ceiling 1.00" in found["rank correlation with people's similarities, best layer"].bar


def test_input_that_cannot_work_is_one_line(model, tmp_path):
    some = entries(SEED, unseen=True)
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path))
    with pytest.raises(InputError, match="different words to choose from, and 1 came"):
        name_words(model, some, some[:4], **TOY)
    with pytest.raises(InputError, match="36 categories|two have|two such"):
        category_centroids(torch.zeros(3, 1, 2), ["a", "b", "c"])
    with pytest.raises(InputError, match="none of 1 features"):
        feature_decoding(torch.zeros(3, 1, 2), [["red"], [], []])
    with pytest.raises(DataError, match="no dictionary.csv"):
        reproduce(Setup(quick=True, model=model, data=tmp_path))
    path = tmp_path / "d.csv"
    path.write_text("description,word,category\na b,x,k\nc d,x,m\n", encoding="utf-8")
    with pytest.raises(DataError, match="give it one"):
        read_dictionary(path)
    path.write_text("a,b,similarity\nx,y,much\n", encoding="utf-8")
    with pytest.raises(DataError, match="is no number"):
        read_similarities(path)
