"""recall-vs-reasoning: holds on the planted world, on a user's model and files, and not where one circuit serves both."""

import csv
from functools import partial

import numpy as np
import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup, recall_vs_reasoning
from conceptlab.recipes.recall_vs_reasoning import TASKS, on_world, reproduce
from conceptlab.train import Schedule
from conceptlab.worlds.recall_and_hops import REASONING, RECALL, recall_and_hops
from conceptlab.worlds.trained_recall import trained_recall
from tests.recipes.findings import by_name, quick_form

COLUMNS = ("clean", "corrupted", "answer", "distractor")


@pytest.fixture(scope="module")
def world():
    return recall_and_hops(n_prompts=120, seed=5)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def write(folder, world, n=120, names=TASKS, **changed):
    """One file a task, the first row with `changed` cells."""
    folder.mkdir(exist_ok=True)
    for task, name in zip(TASKS, names, strict=True):
        of = (
            world.prompts[task],
            world.prompts[f"{task}_corrupted"],
            world.answers[task],
            world.answers[f"{task}_corrupted"],
        )
        rows = [dict(zip(COLUMNS, cells, strict=True)) for cells in zip(*of, strict=True)][:n]
        rows[0] |= changed
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return folder


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=5)
    found, chosen = by_name(done), done.provenance.settings
    assert done.holds and not done.notes and len(found) == 10
    assert set(chosen["recall"]) == {*RECALL["heads"], *RECALL["neurons"]}
    assert set(chosen["reasoning"]) == {*REASONING["heads"], *REASONING["neurons"]}
    assert chosen["shared"] == ["L0.H1"]
    assert found["agreement of the units found with the planted ones"].value == 1.0
    assert found["heads and neurons that serve one task alone"].control == 0.0
    # what differs between the tasks is more than what is used: the decoys are among it
    assert 0.3 < found["units that differ which serve one task alone"].value < 0.6
    own = found["accuracy of recall lost without the units of recall"]
    assert own.value > 60 and own.control <= 10 and own.low < own.value < own.high
    assert found["accuracy of reasoning lost without the units of recall"].value <= 5
    index = found["index of double dissociation"]
    assert index.low > 1.0 > 0.4 > index.control
    assert set(done.results) == {"contrast", "selective units", "dissociation"}


@pytest.mark.parametrize("seed", [5, 6])
def test_the_null_world_does_not_hold(seed):
    done = on_world(recall_and_hops(n_prompts=96, seed=seed, null=True), seed=seed)
    assert not done.holds and not done.provenance.settings["recall"] and not done.provenance.settings["reasoning"]
    assert any("no unit serves recall alone" in note for note in done.notes)
    assert np.isnan(by_name(done)["index of double dissociation"].value)


def test_a_users_model_and_files_run(world, model, tmp_path):
    done = reproduce(Setup(quick=True, model=model, data=write(tmp_path / "tasks", world), seed=1))
    assert done.holds and done.provenance.n == 240 and len(done.findings) == 9  # nothing planted is known of it
    assert {"L2.H1"} <= set(done.provenance.settings["recall"])


def test_input_that_cannot_work_is_one_line(world, model, tmp_path):
    for setup in (Setup(quick=True, model=model), Setup(quick=True, data=tmp_path)):
        with pytest.raises(InputError, match="--model and --data together"):
            reproduce(setup)
    text = world.prompts["recall"][0]
    cases = (
        (tmp_path, "at least two"),
        (write(tmp_path / "a", world, names=("recall", "sums")), "name its two files recall and reasoning"),
        (write(tmp_path / "b", world, n=20), "recall has 20 rows, and 32 are needed"),
        (write(tmp_path / "c", world, corrupted=text + " ."), "swap words that are as many"),
        (write(tmp_path / "d", world, answer="purple"), "no word that .* tokenizer knows"),
        (write(tmp_path / "e", world, clean=text, corrupted=text), "the same text"),
    )
    for folder, says in cases:
        with pytest.raises((DataError, InputError), match=says):
            reproduce(Setup(quick=True, model=model, data=folder))


def test_the_full_form_puts_a_trained_model_beside_the_planted_one(world, monkeypatch, tmp_path):
    """Three steps teach nothing: what is found on that model must not be called a dissociation, nor the row hold."""
    few = Schedule(steps=3, learning_rate=8e-3, warmup=1)
    monkeypatch.setattr(recall_vs_reasoning, "trained_recall", partial(trained_recall, schedule=few))
    trained = recall_vs_reasoning.on_trained(Setup(quick=True, cache=tmp_path), n=80)
    both = recall_vs_reasoning.beside(on_world(world), trained)
    marked = {f.name.removeprefix("trained model: "): f for f in both.findings if f.name.startswith("trained model: ")}
    assert set(marked) == set(by_name(trained)) and len(both.findings) == 10 + len(marked)
    assert not trained.holds and not both.holds
    verdicts = {name: f.holds for name, f in marked.items() if f.holds is not None}
    assert verdicts == {f"answers to {task} puzzles never trained on that are right": False for task in TASKS}
    assert all(f.value < 50 and f.low <= f.value <= f.high for name, f in marked.items() if name in verdicts)
    assert any("an ability that it lacks" in note for note in both.notes)
    assert any("bars of the planted world; it misses: " in note for note in both.notes)
    assert all(note.startswith("trained model: ") for note in both.notes)
    assert "trained model: contrast" in both.results and "trained model: recall" in both.provenance.settings


def test_a_trained_model_with_both_abilities_need_not_keep_them_apart(world):
    """The twin in which one circuit serves both stands in for one: no verdict on it but that it can do both."""
    null = recall_and_hops(n_prompts=96, seed=5, null=True)
    apart, mixed = on_world(world), on_world(null, seed=5)
    both = recall_vs_reasoning.beside(apart, mixed)
    assert apart.holds and not mixed.holds and both.holds
    missed = [note for note in both.notes if "bars of the planted world; it misses: " in note]
    assert len(missed) == 1 and "index of double dissociation" in missed[0]
    same = recall_vs_reasoning.beside(apart, apart)
    assert same.notes[-1] == "trained model: meets 8 of the 8 bars of the planted world"
