"""factual-recall-neurons: holds where facts are stored, not in the null twin, and takes a user's model and questions."""

import json

import pytest

from conceptlab.data.two_hops import read_two_hops
from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.factual_recall_neurons import (
    CHAIN,
    CONFLICT,
    MORE,
    OTHER,
    embedded_rows,
    on_world,
    reproduce,
    said_first,
)
from conceptlab.worlds.stored_hops import stored_hops
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce)
    found = {f.name: f for f in done.findings}
    assert done.holds
    assert found["precision of the five best neurons, first hop"].value >= 0.9
    up = found["change of accuracy, the fact's neurons at x2"]
    down = found["change of accuracy, the fact's neurons at x0"]
    assert up.low > 0 > down.high and abs(up.control) <= 0.02 and abs(down.control) <= 0.02


@pytest.mark.parametrize("seed", [1, 2])
def test_null_twins_do_not_hold(seed):
    with pytest.raises(InputError, match="answers . of 12 direct facts right; give facts that it knows"):
        on_world(stored_hops(seed=seed, null=True), seed=seed)


def rows_of(world):
    found = []
    for prompt, answer in zip(world.prompts["both"], world.answers["both"], strict=True):
        subject = prompt.split()[2]
        direct = world.prompts[f"first {subject}"]
        bridge = world.answers[f"first {subject}"][0]
        found.append(
            {"prompt": prompt, "answer": answer, "fact": subject, "direct": "|".join(direct), "bridge": bridge}
        )
    return found


def test_a_users_model_and_file(tmp_path):
    world, path = stored_hops(seed=4), tmp_path / "hops.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows_of(world)), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer), data=path))
    up = next(f for f in done.findings if f.name.startswith("change of accuracy"))
    assert up.value > 0 and "12 of 12 facts" in done.notes[0]


def test_questions_of_the_closed_world_say_what_they_need():
    rows = embedded_rows()
    assert len(rows) == 48 and all(len(row.direct) == 3 and row.fact in row.prompt for row in rows)


def test_what_cannot_be_asked_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
    path = tmp_path / "hops.csv"
    path.write_text("prompt,answer,fact,direct,bridge\na b,c,f,one|two,d\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: 'one\|two' holds 2 wordings; give at least 3"):
        read_two_hops(path)


def test_what_is_said_before_dilutes_recall_as_planted():
    """The heads that gather look at every entity alike: two of three mentions are the subject after its own statement, one of three
    after another's."""
    found = {f.name: f for f in on_world(stored_hops(seed=2), quick=False, seed=2).findings}
    for what, share in ((CHAIN, 2 / 3), (CONFLICT, 2 / 3), (OTHER, 1 / 3)):
        assert found[f"recall score in the question after {what}"].value == pytest.approx(share, abs=1e-3)
    assert found[MORE].holds and found[MORE].value == pytest.approx(1 / 3, abs=1e-3) and abs(found[MORE].control) < 0.1
    assert found[f"answers right after {CONFLICT}"].value < found[f"answers right after {CHAIN}"].value


def test_what_is_said_before_is_the_fact_a_false_one_and_anothers():
    rows = embedded_rows()
    said = said_first(rows)
    for row, own, false, other in zip(rows, said[CHAIN], said[CONFLICT], said[OTHER], strict=True):
        assert own == f"{row.direct[0]} {row.bridge}."
        assert false.startswith(row.direct[0]) and row.bridge not in false
        assert row.fact not in other and row.bridge not in other
    with pytest.raises(InputError, match="so none conflicts with another"):
        said_first(rows[:3])
