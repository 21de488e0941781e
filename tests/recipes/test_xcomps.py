"""xcomps: the planted facts are known three ways, the twin knows nothing, the published form round-trips, bad input is one line."""

import copy
import json

import numpy as np
import pytest
import torch

from conceptlab.data.concept_pairs import COLUMNS, read_concept_pairs, write_concept_pairs
from conceptlab.errors import DataError, InputError
from conceptlab.evidence import make_folds
from conceptlab.measure.probing.columns import Problem
from conceptlab.measure.probing.concept_evaluators import direct_margins, evaluate_pairs, metalinguistic_margins
from conceptlab.measure.probing.layer_probe import held_out_curve
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.xcomps import _beside, on_trained, reproduce
from conceptlab.worlds.trained_bilingual import ASKED, LABELS, bilingual_pairs, bilingual_tokenizer, trained_bilingual
from tests.recipes.findings import by_name, quick_form

SEED = 100


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache):
    return load_model(trained_bilingual(seed=SEED, cache=cache).model, tokenizer=bilingual_tokenizer())


@pytest.fixture(scope="module")
def quick(cache, model):
    return quick_form(reproduce, seed=SEED, cache=cache)


def test_the_quick_form_holds_beside_its_controls(quick):
    found = by_name(quick)
    assert quick.holds and len(found) == 9
    for evaluator in ("metalinguistic", "direct", "neurolinguistic"):
        finding = found[f"{evaluator} accuracy: often, random negatives"]
        assert finding.value >= 0.95 > 0.6 > finding.control
    assert found["points lost in seldom, beside often"].value >= 10
    assert found["accuracy and that with right and wrong exchanged: distance of their sum from 1"].value == 0.0
    assert found["bag of words instead of the stream: highest accuracy"].value <= 0.6


def test_the_twin_that_learnt_nothing_is_at_chance(quick, cache):
    null = on_trained(Setup(quick=True, seed=SEED, cache=cache), null=True)
    values = [f.value for f in null.findings if "accuracy:" in f.name]
    assert not null.holds and max(values) < 0.7
    both = _beside(quick, [quick, quick], null)
    assert both.findings[-2].value == 1.0 and both.findings[-2].holds and len(both.findings) == 11
    assert not _beside(quick, [quick, null], null).findings[-2].holds


def test_the_direct_margin_is_the_plain_one(model):
    """One sentence at a time, through the library's own call."""
    pairs = bilingual_pairs()[::37]
    ours = direct_margins(model, pairs)
    plain = []
    for pair in pairs:
        sides = []
        for acceptable in (True, False):
            ids = torch.tensor(model.encode(pair.sentence(acceptable=acceptable)).ids)
            with torch.no_grad():
                logp = model.module(input_ids=ids).logits[0].log_softmax(-1)
            sides.append(float(logp[2, ids[0, 3]] + logp[3, ids[0, 4]]))  # `has`, and the property
        plain.append(sides[0] - sides[1])
    np.testing.assert_allclose(ours, plain, atol=1e-4)
    swapped = direct_margins(model, [p.swapped() for p in pairs])
    np.testing.assert_allclose(ours, -swapped, atol=1e-5)
    asked = metalinguistic_margins(model, pairs, ASKED, LABELS)
    np.testing.assert_allclose(
        asked, -metalinguistic_margins(model, [p.swapped() for p in pairs], ASKED, LABELS), atol=1e-4
    )


def test_sentences_of_one_property_stay_in_one_fold(model):
    """Rows dealt singly would put one sentence on both sides of a fold; words alone then seem to tell."""
    pairs = [p for p in bilingual_pairs() if p.language == "often" and p.negative_sample_type == "similar"]
    batch = model.encode([p.sentence(acceptable=good) for good in (True, False) for p in pairs])
    labels = np.repeat([1, 0], len(pairs))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(batch), 1, 40))
    unique = {ids: noise[i] for i, ids in reversed(list(enumerate(batch.ids)))}
    rows = torch.tensor(
        np.stack([unique[ids] for ids in batch.ids]), dtype=torch.float32
    )  # random, but the same for a sentence
    groups = np.unique([p.property for p in pairs] * 2, return_inverse=True)[1]
    leaky = held_out_curve(rows, Problem(labels[None], make_folds(labels, None), "binary", "accuracy"), c=1.0)
    grouped = held_out_curve(rows, Problem(labels[None], make_folds(labels, groups), "binary", "accuracy"), c=1.0)
    assert leaky[0] > 0.8 and grouped[0] < 0.65


def test_the_published_form_round_trips(tmp_path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    first = dict.fromkeys(COLUMNS, "x") | {
        "prefix_acceptable": "Ein Hund",
        "property_phrase": "kann bellen.",
        "id": 7,
        "similarity": 0.5,
    }
    (folder / "de.json").write_text(json.dumps([first]), encoding="utf-8")
    pairs = read_concept_pairs(folder)
    assert pairs[0].language == "de" and pairs[0].rest == {"id": 7, "similarity": 0.5}
    assert pairs[0].sentence(acceptable=True) == "Ein Hund kann bellen"
    again = tmp_path / "again"
    again.mkdir()
    write_concept_pairs([*pairs, *bilingual_pairs()], again)
    assert json.loads((again / "de.json").read_text(encoding="utf-8")) == [first]
    assert sorted(p.name for p in again.iterdir()) == ["de.json", "often.json", "seldom.json"]
    assert {p for p in read_concept_pairs(again) if p.language != "de"} == set(bilingual_pairs())
    assert pairs[0].swapped().swapped() == pairs[0]


def test_a_users_model_and_folder_run(model, tmp_path):
    write_concept_pairs(bilingual_pairs(), tmp_path)
    done = reproduce(Setup(quick=True, model=with_labels(model), data=tmp_path))
    assert done.provenance.n == 504 and any("no verdict" in note for note in done.notes)
    found = by_name(done)
    assert found["direct accuracy: often, random negatives"].value >= 0.95
    assert found["direct accuracy: often, random negatives"].holds is None


def with_labels(model):
    """A copy whose tokenizer also knows the labels of the usual question."""
    tokenizer, module = bilingual_tokenizer(), copy.deepcopy(model.module)
    tokenizer.add_tokens(["A", "B"])
    module.resize_token_embeddings(len(tokenizer))
    return load_model(module, tokenizer=tokenizer)


def test_input_that_cannot_work_is_one_line(model, tmp_path):
    pairs = bilingual_pairs()
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path))
    with pytest.raises(InputError, match="must hold {first} and {second}"):
        evaluate_pairs(model, pairs, question="which one?")
    with pytest.raises(InputError, match="share their first token"):
        metalinguistic_margins(model, pairs[:2], ASKED, ("first", "first"))
    with pytest.raises(InputError, match="no pairs came"):
        evaluate_pairs(model, [])
    with pytest.raises(DataError, match="no .json, .jsonl or .csv"):
        read_concept_pairs(tmp_path)
    (tmp_path / "en.json").write_text('[{"property": "x"}]', encoding="utf-8")
    with pytest.raises(DataError, match="no column 'acceptable_concept'"):
        read_concept_pairs(tmp_path)
