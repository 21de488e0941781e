"""concept-depth: planted layers are found, the twin stays silent, a user's model and file run, and the curves draw themselves."""

from dataclasses import replace

import pytest

from conceptlab.data import ConceptSet
from conceptlab.errors import InputError
from conceptlab.model import load_model
from conceptlab.plot import chart_of
from conceptlab.recipes import Setup
from conceptlab.recipes.concept_depth import _beside, on_world, planted_concepts, reproduce
from conceptlab.worlds.concept_at_layer import concept_at_layer
from conceptlab.worlds.planted import labelled_csv
from tests.recipes.findings import by_name, quick_form


@pytest.fixture(scope="module")
def quick():
    return quick_form(reproduce, seed=5)


def test_the_quick_form_holds_beside_its_controls(quick):
    found = by_name(quick)
    assert quick.holds and not quick.notes and len(found) == 7
    assert quick.provenance.settings["depths"] == [1.0, 2.0, 4.0]
    deeper = found["layers from the depth of the easiest concept to that of the hardest"]
    assert deeper.value == 3.0 and deeper.control == 0.0
    silent = found["shuffled labels: largest distance from chance of any layer"]
    assert silent.value < 3 < 40 < silent.control
    task = found["score at the best layer beside the control task's"]
    assert task.value > 0.95 > 0.8 > task.control
    noised = found["points lost at the best layer: noised"]
    assert noised.value > 3 and noised.holds is None  # a glued word is no longer the word


def test_the_twin_with_nothing_planted_does_not_hold():
    null = concept_at_layer(appears_at=1, unused_at=3, n_layers=4, n_texts=240, seed=5, null=True)
    done = on_world(null, seed=5)
    found = by_name(done)
    assert not done.holds and found["planted concepts found at the layer where they were planted"].value <= 1 / 3
    assert any("readable beyond shuffled labels" in note for note in done.notes)
    assert found["shuffled labels: largest distance from chance of any layer"].value < 4


def test_curves_of_all_concepts_are_one_chart(quick):
    chart = chart_of(quick.results["depth"])
    assert chart is not None
    chart.altair()
    dots = [row for row in chart.rows if row["place"] is not None]
    assert len(chart.rows) == 3 * 3 * 5 and len(dots) == 9 and {r["place"] for r in dots} == {1, 2, 4}
    assert len({row["panel"] for row in chart.rows}) == 3 and all("control_low" in row for row in chart.rows)


def test_a_users_model_and_file_run(tmp_path):
    world = concept_at_layer(appears_at=0, unused_at=1, n_layers=2, n_texts=160, seed=2)
    path = tmp_path / "labels.csv"
    path.write_text(labelled_csv(ConceptSet("mine", tuple(planted_concepts(world)[1:]))), encoding="utf-8")
    model = load_model(world.model, tokenizer=world.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=path))
    assert len(done.findings) == 6 and done.provenance.n == 320
    assert done.provenance.settings["depths"] == [1.0, 2.0]
    assert any("no control task" in note for note in done.notes)  # every text ends alike and there are no groups


def test_trained_models_stand_beside_the_planted_one(quick):
    trained = replace(quick, findings=quick.findings[1:])
    both = _beside(quick, [trained, trained])
    assert both.holds and len(both.findings) == 9 and both.findings[-2].value == 3.0
    bad = replace(trained, findings=(replace(trained.findings[0], holds=False), *trained.findings[1:]))
    assert not _beside(quick, [trained, bad]).holds


def test_model_and_data_come_together(tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
