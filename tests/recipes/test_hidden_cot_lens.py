"""hidden-cot-lens: holds on the planted world, on trained models and on a user's file, and not where nothing is planted."""

import json

import numpy as np
import pytest

import conceptlab.recipes.hidden_cot_lens as row
from conceptlab.errors import DataError, InputError
from conceptlab.measure.lenses.hidden_reading import ChainCase, read_half
from conceptlab.model import load_model
from conceptlab.model.batch import Batch
from conceptlab.recipes import Setup
from conceptlab.recipes.hidden_cot_lens import FED_BACK, STEPS_READ, on_worlds, reproduce
from conceptlab.train import Schedule
from conceptlab.worlds.filler_chain import FillerTask
from conceptlab.worlds.hidden_steps import hidden_steps
from tests.recipes.findings import quick_form


@pytest.fixture(scope="module")
def world():
    return hidden_steps(n_prompts=48, seed=5)


@pytest.fixture(scope="module")
def model(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def records(world, n=48):
    cells = zip(world.prompts["hidden"], world.prompts["shown"], world.answers["hidden"], strict=True)
    return [{"prompt": p, "written": w, "answer": a} for p, w, a in cells][:n]


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_the_quick_form_holds_beside_its_controls(seed):
    done = quick_form(reproduce, seed=seed)
    found = {f.name: f for f in done.findings}
    assert done.holds and len(found) == 7 and done.provenance.n == 64
    assert found[STEPS_READ].value == 1.0 and found[STEPS_READ].control < 0.4 and 0.85 < found[STEPS_READ].low < 1.0
    assert found["true steps of rank 1 or 2 there"].value == 1.0
    assert found["true steps that are the output's own best token besides the filler"].value == 1.0
    assert found["places whose first choice is the filler at the output"].value == 1.0
    assert found[FED_BACK].value == 1.0 and found[FED_BACK].control < 0.7 and found[FED_BACK].low > 0.85
    assert set(done.results) == {"lens", "decoding", "lens: the null twin"}


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_the_null_world_does_not_hold(seed):
    twin = hidden_steps(n_prompts=64, seed=seed, null=True)
    done = on_worlds(twin, twin, seed=seed)
    found = {f.name: f for f in done.findings}
    assert not done.holds and found[STEPS_READ].holds is False and found[STEPS_READ].value < 0.4
    assert found["true steps in the text that the decoder shows"].holds is False
    # its answers are right, and its filler is written, without any step that its words name
    assert found["places whose first choice is the filler at the output"].holds is True
    assert found["answers right while steps are shown as text"].holds is True


@pytest.mark.parametrize("kind", [".json", ".jsonl"])
def test_a_users_model_and_file_run(world, model, tmp_path, kind):
    path = tmp_path / f"texts{kind}"
    made = records(world)
    path.write_text(json.dumps(made) if kind == ".json" else "\n".join(map(json.dumps, made)), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=model, data=path))
    found = {f.name: f for f in done.findings}
    assert done.holds and done.provenance.n == 48 and found[STEPS_READ].value == 1.0
    assert found[STEPS_READ].control < 0.3 and "other texts" in done.notes[-1]


def test_the_full_form_trains_three_models_and_two_twins(monkeypatch, tmp_path):
    """With a training of a few steps: nothing is learned, so nothing may hold but that every part is there."""
    task, schedule = FillerTask(n_layers=2, d_model=16), Schedule(steps=5, learning_rate=5e-3, warmup=2)
    train, made = row.filler_chain, []

    def small(_task, *, chains, seed, cache, progress):
        made.append((chains, seed))
        return train(task, chains=chains, seed=seed, schedule=schedule, cache=cache, progress=progress)

    monkeypatch.setattr(row, "filler_chain", small)
    done = reproduce(Setup(seed=3, cache=tmp_path))
    assert made == [("shown", 3), ("shown", 4), ("shown", 5), ("none", 3), ("shuffled", 3)]
    found = {f.name: f for f in done.findings}
    assert not done.holds and found[STEPS_READ].value < 0.4 and len(found) == 8
    assert 1 / 3 <= found["models whose filler takes over at the same layer"].value <= 1.0
    assert len(done.provenance.settings["shares"]) == 3 and len(done.notes) == 5
    assert (
        "not learnt, but counted: seed 3, seed 4, seed 5, every chain hidden, shown chains are other texts'"
        in done.notes[4]
    )


def test_a_model_that_did_not_learn_is_named_and_no_other():
    names = {"seed 3": 1e-4, "seed 4": 0.02, "a twin": float("nan")}
    assert "not learnt, but counted: seed 4, a twin)" in row._learning(names)[0]
    assert "(all learnt)" in row._learning({"seed 3": 2e-3})[0]


def test_the_layer_is_chosen_on_other_texts():
    """A layer that is right by chance on the half it was chosen on gains nothing: noise stays at its rate."""
    from tests.model.tiny import decoder

    rng, shares = np.random.default_rng(0), []
    names = [50, 51, 52, 53]
    for _ in range(12):
        rows = [(20, *rng.integers(10, 30, 3).tolist(), 40, 40, 25) for _ in range(16)]
        case = ChainCase(decoder(), Batch(tuple(rows)), rng.choice(names, (16, 2)).tolist(), [1] * 16, 40)
        found = read_half(case, n_shuffles=19)
        assert len(found.case.texts) == 8
        shares.append(found.at("score"))
    assert np.mean(shares) < 0.25
    with pytest.raises(InputError, match="7 texts came; .* at least 8"):
        read_half(case.rows(range(7)))


def test_input_that_cannot_work_is_one_line(world, model, tmp_path):
    path = tmp_path / "texts.jsonl"
    for setup in (Setup(quick=True, model=model), Setup(quick=True, data=path)):
        with pytest.raises(InputError, match="--model and --data together"):
            reproduce(setup)
    good = records(world)
    for made, says in (
        (good[:3], "3 texts came"),
        ([{**good[0], "written": good[0]["prompt"]}, *good[1:]], "line 1: prompt and written are both"),
        ([{**good[0], "written": good[0]["written"] + " ="}, *good[1:]], "row 0: 14 tokens with fillers and 15"),
        ([{**good[0], "answer": "perhaps"}, *good[1:]], "no word that .* tokenizer knows"),
        ([{"prompt": g["prompt"], "answer": g["answer"]} for g in good], "no column 'written'"),
    ):
        path.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
        with pytest.raises((DataError, InputError), match=says):
            reproduce(Setup(quick=True, model=model, data=path))
