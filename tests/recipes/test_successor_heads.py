"""successor-heads: holds on the planted world, on a user's model and series, and not where nothing is planted."""

import pytest

from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.successor_heads import on_world, reproduce
from conceptlab.worlds.induction import induction
from conceptlab.worlds.successor import successor
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce, seed=5)
    assert done.holds and len(done.findings) == 6 and not done.notes
    assert done.provenance.settings["head"] == "L1.H0"
    found = {f.name: f for f in done.findings}
    best = found["succession score of the best head"]
    assert best.value == 1.0 and best.control <= 0.2
    probed = found["last digits read from the streams of held-out numbers"]
    assert probed.value >= 0.95 and probed.control <= 0.17
    swapped = found["answers whose last digit moves as the swapped digit says"]
    assert swapped.value >= 0.8 and swapped.control <= 0.2 and swapped.low <= swapped.value <= swapped.high
    lost = found["lost at successors without the head"]
    assert lost.value > 3 and lost.control < 0.1  # repeated random words are better off without it
    assert set(done.results) == {"heads", "succession", "probed", "swapped", "ablated", "ablated elsewhere"}


@pytest.mark.parametrize("seed", [5, 6])
def test_the_null_world_does_not_hold(seed):
    done = on_world(successor(seed=seed, null=True), seed=seed)
    verdicts = {f.name: f.holds for f in done.findings}
    assert not done.holds and not verdicts["succession score of the best head"]
    assert not verdicts["heads found to say the next that are the planted ones"]
    assert not verdicts["answers whose last digit moves as the swapped digit says"]
    assert not verdicts["lost at successors without the head"]


def test_a_users_model_and_series_run(tmp_path):
    world = successor(seed=5)
    path = tmp_path / "series.csv"
    months = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
    path.write_text("family,word\n" + "\n".join(f"months,{m}" for m in months), encoding="utf-8")
    model = load_model(world.model, tokenizer=world.tokenizer)
    done = reproduce(Setup(quick=True, model=model, data=path, seed=5))
    assert done.holds and done.provenance.settings["families"] == {"months": 10}
    assert "last digits were not probed" in done.notes[0]


def test_input_that_cannot_work_is_one_line(tmp_path):
    world = induction()
    with pytest.raises(InputError, match="keeps no family of ordinal words as single tokens"):
        reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer)))
    path = tmp_path / "series.csv"
    path.write_text("family,word\ndays,Monday\ndays,Monday\n", encoding="utf-8")
    with pytest.raises(DataError, match="stands twice"):
        reproduce(Setup(quick=True, data=path))
    path.write_text("family,word\ndays,Monday\ndays,Tuesday\n", encoding="utf-8")
    with pytest.raises(InputError, match="needs --model"):
        reproduce(Setup(quick=True, data=path))
