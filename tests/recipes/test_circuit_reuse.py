"""circuit-reuse: holds on the planted world, not on its null twin, and runs on a user's model and folder of tasks."""

import csv
import math

import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.circuit_reuse import ALONE, APART, CONTAINED, JACCARD, LIFT, OTHERS, SHIFT, on_world, reproduce
from conceptlab.worlds.shared_subcircuit import CIRCUITS, shared_subcircuit
from tests.recipes.findings import by_name, quick_form


@pytest.mark.parametrize("seed", [5, 6])
def test_the_quick_form_holds_beside_its_controls(seed):
    done = quick_form(reproduce, seed=seed)
    assert done.holds and not done.notes
    found = by_name(done)
    assert found[JACCARD].value == pytest.approx(4 / 6) and found[JACCARD].control < 0.2
    assert found[CONTAINED].value == pytest.approx(4 / 5)
    assert found[APART].value == 0.0 and found[APART].control < 0.2
    assert found[LIFT].value == 1.0 and abs(found[LIFT].control) <= 0.05 and found[OTHERS].value == 0.0
    assert found[ALONE].holds is None and found[SHIFT].value > 0.3 and abs(found[SHIFT].control) < 0.05
    assert done.provenance.settings["weaker"] == "ask" and done.provenance.settings["accuracy"]["ask"] == 0.0
    assert {f"circuit of {task}" for task in CIRCUITS} | {"overlap", "forced"} <= set(done.results)


@pytest.mark.parametrize("seed", [5, 6])
def test_the_null_world_does_not_hold(seed):
    done = on_world(shared_subcircuit(n_prompts=16, seed=seed, null=True), seed=seed)
    assert not done.holds and not any(finding.holds for finding in done.findings)
    for finding in done.findings:
        assert finding.control is not None or any(note.startswith(finding.name) for note in done.notes)
    assert math.isnan(by_name(done)[LIFT].value)


@pytest.fixture(scope="module")
def users():
    return load_model(shared_subcircuit().model, tokenizer=shared_subcircuit().tokenizer)


def write(folder, tasks=("give", "ask"), n=16, **more):
    planted = shared_subcircuit(n_prompts=n, seed=7)
    folder.mkdir(exist_ok=True)
    for number, task in enumerate(tasks):
        columns = {
            "clean": planted.prompts[task], "corrupted": planted.prompts[f"{task}_swapped"],
            "answer": planted.answers[task], "distractor": planted.answers[f"{task}_swapped"],
            **{name: of(planted, task) for name, of in more.items()},
        }  # fmt: skip
        with (folder / f"{number}_{task}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return folder


def test_a_users_model_and_two_files_run(users, tmp_path):
    done = reproduce(Setup(quick=True, model=users, data=write(tmp_path / "two")))
    found = by_name(done)
    assert found[JACCARD].value > found[JACCARD].control and APART not in found
    assert found[LIFT].value >= 0.9 and abs(found[LIFT].control) <= 0.05
    assert 0.3 < found[LIFT].low < 0.9  # eight rows say no more, even where all are repaired
    assert done.provenance.n == 32 and done.provenance.settings["weaker"] == "1_ask"


def test_a_third_file_is_the_unrelated_task_and_order_of_the_first_two_does_not_matter(users, tmp_path):
    done = reproduce(Setup(quick=True, model=users, data=write(tmp_path / "three", ("ask", "give", "order"))))
    found = by_name(done)
    assert found[APART].value == 0.0 and done.provenance.settings["weaker"] == "0_ask" and found[LIFT].value >= 0.9


def test_the_column_attend_says_where_heads_should_look(users, tmp_path):
    away = write(tmp_path / "away", attend=lambda planted, task: ["met"] * len(planted.prompts[task]))
    done = reproduce(Setup(quick=True, model=users, data=away))
    assert math.isnan(by_name(done)[LIFT].value) and any("no shared head attends" in note for note in done.notes)


def test_tasks_that_share_nothing_do_not_hold(users, tmp_path):
    done = reproduce(Setup(quick=True, model=users, data=write(tmp_path / "apart", ("give", "order"))))
    found = by_name(done)
    assert not done.holds and found[JACCARD].value == 0.0 and found[JACCARD].holds is False
    assert any("share no head" in note for note in done.notes)


def test_bad_input_is_one_clear_line(users, tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, model=users))
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path))
    with pytest.raises(DataError, match="holds 1 files of pairs"):
        reproduce(Setup(quick=True, model=users, data=write(tmp_path / "one", ("give",))))
    with pytest.raises(DataError, match="does not stand in the clean text"):
        nowhere = write(tmp_path / "no", attend=lambda planted, task: ["Zoe"] * len(planted.prompts[task]))
        reproduce(Setup(quick=True, model=users, data=nowhere))
