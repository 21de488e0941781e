"""Few edges and how sure: planted circuits whole, held-out rows that decide, and nothing where there is nothing."""

import numpy as np
import pytest

from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.find.circuits.explain import explain_behaviour
from conceptlab.results import Circuit

from .planted_runs import metric_of, model_of, prepared, true_edges, world


def explained(name, corruption="key", null=False, seed=5, **options):
    prompts = world(name, null=null, seed=seed).prompts
    model, metric = model_of(name, null=null, seed=seed), metric_of(name, corruption, null=null, seed=seed)
    return explain_behaviour(model, prompts["clean"], prompts[corruption], metric, **options)


@pytest.mark.parametrize(
    ("name", "corruption"),
    [("induction", "key"), ("induction", "query"), ("soft", "key"), ("or", "key"), ("and", "key")],
)
def test_the_planted_edges_are_the_explanation(name, corruption):
    answer = explained(name, corruption)
    circuit, share = answer.circuit, answer.faithfulness
    assert set(circuit.edge_names()) == true_edges(name, corruption)
    assert float(share["score"][0]) == pytest.approx(1.0, abs=0.05) and float(share["control"][0]) < 0.1
    assert (circuit.q <= 0.05).all() and (answer.chosen > 0.9).all()
    assert circuit.provenance.n == 12  # half of the rows decide
    assert (circuit.low <= circuit.weights).all() and (circuit.weights <= circuit.high).all()
    if name == "or":  # branches show when they are put back, not when they are taken away
        assert sum(d == "denoising" for d in answer.direction) == 4 and (np.sort(circuit.exact)[:4] < 0.01).all()
    assert "L1." in str(answer) and "random circuits of that size carry" in str(answer)


def test_movers_that_work_against_the_task_belong_to_the_explanation():
    answer = explained("ioi", "swapped")
    assert true_edges("ioi") <= set(answer.circuit.edge_names()) and len(answer.circuit) <= 12
    assert float(answer.faithfulness["score"][0]) == pytest.approx(1.0, abs=0.05)
    weight = dict(zip(answer.circuit.edge_names(), answer.circuit.weights, strict=True))
    assert weight["L2.H1", "logits"] == pytest.approx(-0.429, abs=0.01)


@pytest.mark.parametrize(("name", "corruption"), [("induction", "key"), ("ioi", "swapped")])
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_nothing_is_explained_where_nothing_happens(name, corruption, seed):
    answer = explained(name, corruption, null=True, seed=seed)
    assert len(answer.circuit) == 0 and answer.notes and len(answer.chosen) == 0
    assert str(answer).startswith("no edge was found")


def test_a_ranking_saves_patches_and_what_it_may_have_missed_is_said():
    run, metric = prepared("induction")
    ranked = exact_edges(run, metric)
    good = explained("induction", scores=ranked, n_exact=12)
    assert set(good.circuit.edge_names()) == true_edges("induction")
    assert good.circuit.provenance.settings["n_exact"] == 12
    assert any("0 do 1.000 or more" in note or "0 do 0.999 or more" in note for note in good.notes)
    upside_down = Circuit(
        run.shape, ranked.source, ranked.target, 1 / (1e-9 + np.abs(ranked.weights)), ranked.provenance
    )
    wrong = explained("induction", scores=upside_down, n_exact=12)
    assert len(wrong.circuit) == 0
    assert any("3 do 0.010 or more" in note for note in wrong.notes)


def test_few_rows_say_that_none_was_held_out():
    prompts, metric = world("induction").prompts, metric_of("induction", "key")
    few = type(metric)(metric.name, metric.of, metric.tokens[:6])
    answer = explain_behaviour(model_of("induction"), prompts["clean"][:6], prompts["key"][:6], few)
    assert any("no half to hold out" in note for note in answer.notes)
