"""llms-dont-know: detached errors can be told, associated ones cannot, and the twin without strangers has none."""

import json
from dataclasses import replace

import numpy as np
import pytest

from conceptlab.data.fact_queries import FactQuery, read_fact_queries
from conceptlab.errors import DataError, InputError
from conceptlab.measure.patching.subject_trace import _others, subject_trace
from conceptlab.measure.probing.answered_facts import KINDS, answer_facts
from conceptlab.measure.probing.error_detectors import error_detectors
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.llms_dont_know import _beside, measured, on_trained, reproduce
from conceptlab.results import Edit, Site
from conceptlab.worlds.trained_facts import fact_queries, facts_tokenizer, people, trained_facts
from tests.recipes.findings import by_name, quick_form

SEED = 101


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache):
    return load_model(trained_facts(seed=SEED, cache=cache).model, tokenizer=facts_tokenizer())


@pytest.fixture(scope="module")
def quick(cache, model):
    return quick_form(reproduce, seed=SEED, cache=cache)


def test_the_quick_form_holds_beside_its_controls(quick):
    found = by_name(quick)
    assert quick.holds and not quick.notes and len(found) == 14
    detached, associated = found["AUC by state: detached"], found["AUC by state: associated"]
    assert detached.value >= 0.9 and detached.low > 0.8 > 0.6 > detached.control
    assert associated.value <= 0.65 and associated.low < 0.55
    assert associated.value < found["AUC by state: any error"].value < detached.value
    assert found["AUC by state: detached, same words"].value > 0.9  # it is not the word that tells
    assert found["answers changed without attention to the subject: detached"].value == 0.0
    moved = {kind: found[f"answers changed with another subject's state: {kind}"].value for kind in KINDS}
    assert abs(moved["correct"] - moved["associated"]) < 15 and moved["detached"] < 10 < 60 < moved["correct"]


def test_the_kinds_are_those_that_were_planted(model):
    answered, of = answer_facts(model, fact_queries(SEED)), people(SEED)
    assert (answered.kind == np.repeat(of.kind, 3)).all()
    assert all(at == [3] for at in answered.subject)


def test_the_twin_without_strangers_has_nothing_detached(quick, cache):
    null = on_trained(Setup(quick=True, seed=SEED, cache=cache), null=True)
    found = by_name(null)
    assert not null.holds and null.provenance.settings["subjects"]["detached"] >= 20
    # its "strangers" are people with a dream that the questions do not name: detached by name, recalled like the others
    assert found["AUC by state: detached"].value < 0.75
    assert found["answers changed without attention to the subject: detached"].value > 50
    both = _beside(quick, [quick, quick], null)
    assert both.findings[-2].value == 1.0 and both.findings[-2].holds and len(both.findings) == 16
    assert not _beside(quick, [quick, replace(null)], null).findings[-2].holds


def test_shuffled_kinds_are_not_told(model):
    answered = answer_facts(model, fact_queries(SEED))
    of = np.random.default_rng(0).permutation(people(SEED).kind)
    found = error_detectors(model, replace(answered, kind=of[answered.groups]), permutations=20, seed=1).data
    assert float(found["q"].min()) > 0.05 and abs(found["score"].sel(detector="state") - 0.5).max() < 0.25


def test_the_trace_is_that_of_plain_edits(model):
    """The same states put in row by row with `edited`, one layer at a time."""
    queries = fact_queries(SEED)[::9][:12]
    answered = answer_facts(model, queries)
    found = subject_trace(model, answered.batch, [3] * 12, answered.said.tolist(), answered.groups, seed=4)
    partner = _others(answered.groups, np.random.default_rng(4))
    assert (answered.groups[partner] != answered.groups).all()
    base = model.capture(answered.batch, "resid_pre", positions=[3])["resid_pre"]
    for layer in range(model.n_layers):
        changed = []
        for row in range(12):
            edit = Edit(Site("resid_pre", layer), "set", base[partner[row], layer], positions=(3,))
            with model.edited(edit):
                changed.append(int(model.logits(answered.batch.select([row])).argmax()) != answered.said[row])
        assert float(found["score"].values[layer]) == pytest.approx(np.mean(changed))


def test_a_trace_needs_two_subjects_and_one_of_each_a_row(model):
    queries = fact_queries(SEED)[:6]
    texts = [q.prompt for q in queries]
    with pytest.raises(InputError, match="all texts have one subject"):
        subject_trace(model, texts, [3] * 6, [5] * 6, [0] * 6)
    with pytest.raises(InputError, match="2 positions, 6 answers"):
        subject_trace(model, texts, [3] * 2, [5] * 6, [0, 1, 2, 3, 4, 5])


def test_a_users_model_and_file_run(model, tmp_path):
    rows = [{"prompt": q.prompt, "subject": q.subject, "answer": q.answer, "associated": ";".join(q.associated) or "-"}
            for q in fact_queries(SEED)]  # fmt: skip
    path = tmp_path / "facts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_fact_queries(path) == fact_queries(SEED)
    done = reproduce(Setup(quick=True, model=model, data=path))
    assert done.provenance.n == 288 and by_name(done)["AUC by state: detached"].value >= 0.9


def test_a_model_without_detached_errors_says_so(model):
    known = [q for q in fact_queries(SEED) if q.associated]
    done = measured(model, known, quick=True, seed=0)
    assert not done.holds and any("detached: 0 subjects are too few" in note for note in done.notes)
    assert np.isnan(by_name(done)["AUC by state: detached"].value)


def test_input_that_cannot_work_is_one_line(model, tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
    with pytest.raises(InputError, match="6 correct ones"):
        measured(model, fact_queries(SEED)[:9], quick=True, seed=0)
    with pytest.raises(InputError, match="no questions came"):
        answer_facts(model, [])
    with pytest.raises(InputError, match="no word that"):
        answer_facts(model, [FactQuery("well ada1 lives in", "ada1", "Atlantis")])
    path = tmp_path / "bad.csv"
    path.write_text("prompt,subject,answer,associated\nada lives in,ben,here,-\n", encoding="utf-8")
    with pytest.raises(DataError, match="must hold the subject"):
        read_fact_queries(path)
