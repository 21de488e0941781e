"""attention-heads-survey: holds on the planted world, tells what it finds on a user's model, and not where heads are random."""

import json

import pytest

from conceptlab.errors import InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.attention_heads_survey import OWN_MOST, on_worlds, reproduce
from conceptlab.worlds.head_roles import head_roles, names_of
from conceptlab.worlds.induction import induction
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=7)
    assert done.holds and all(f.holds for f in done.findings) and len(done.findings) == 4
    listed, confirmed, random, own = done.findings
    assert listed.value >= 0.95 and listed.control <= 0.3
    assert confirmed.value >= 0.95 and confirmed.control <= 0.3
    assert random.value <= 0.05 and random.control == 1.0
    assert own.name == OWN_MOST and own.value >= 0.9 and own.control <= 0.6
    assert set(done.results) == {"atlas"} and done.provenance.settings["confirmed"]["successor"] == ["L1.H2"]


def test_random_heads_do_not_hold():
    twin = head_roles(seed=7, null=True)
    done = on_worlds([twin], [], Setup(quick=True, seed=7))
    verdicts = [f.holds for f in done.findings]
    assert not done.holds and verdicts[:2] == [False, False] and not verdicts[3]
    assert any("no head is confirmed" in note for note in done.notes)


def test_a_users_model_and_prompts_run(tmp_path):
    world = head_roles(seed=7, n_prompts=24)
    prompts = names_of(world)
    path = tmp_path / "names.json"
    rows = zip(prompts.texts, prompts.answers, prompts.repeated, strict=True)
    path.write_text(json.dumps([{"text": t, "answer": a, "repeated": r} for t, a, r in rows]), encoding="utf-8")
    model = load_model(world.model, tokenizer=world.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=path, seed=7))
    assert done.holds and all(f.holds is None for f in done.findings)  # nobody knows the truth: told, not asked
    assert done.findings[0].name == OWN_MOST and done.findings[0].value >= 0.9
    assert done.provenance.settings["confirmed"]["s-inhibition"] == ["L1.H1"] and "agreement" in done.results


def test_what_cannot_be_asked_is_named_and_the_rest_goes_on():
    world = induction()
    done = reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer)))
    assert done.provenance.settings["confirmed"]["induction"] == ["L1.H0"]
    assert any(note.startswith("not asked: name-mover: 0 of 58") for note in done.notes)


def test_data_without_a_model_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--data needs --model"):
        reproduce(Setup(quick=True, data=tmp_path / "names.csv"))
