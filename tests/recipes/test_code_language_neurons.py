"""code-language-neurons: holds on the planted world, not on its null twin, and takes a user's model and texts."""

import json

import pytest

from conceptlab.data.language_texts import read_language_texts
from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.code_language_neurons import on_world, reproduce
from conceptlab.worlds.pivot_languages import ALONE, pivot_languages
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce)
    found = {f.name: f for f in done.findings}
    assert done.holds and done.provenance.causal == "ablation"
    f1 = found["F1 of the neurons exclusive to a language"]
    assert f1.value >= 0.9 and f1.control == 0
    assert found["neurons exclusive to one of two near-duplicates"].value == 0
    ratio = next(f for f in done.findings if f.unit == "ratio")
    assert ratio.value >= 5 and ratio.control < 5


@pytest.mark.parametrize("seed", [1, 2])
def test_null_twins_do_not_hold(seed):
    done = on_world(pivot_languages(seed=seed, null=True), seed=seed)
    assert not done.holds and done.findings[0].value == 0
    assert any("no language has neurons of its own" in note for note in done.notes)


def test_a_users_model_and_file(tmp_path):
    world, path = pivot_languages(seed=3), tmp_path / "texts.jsonl"
    rows = [
        {"language": name, "text": text, "pair": str(i)}
        for name in ALONE[:3]
        for i, text in enumerate(world.prompts[name][:20])
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer), data=path))
    assert "alpha 6, beta 6, gamma 6" in done.notes[0]
    assert next(f for f in done.findings if f.unit == "ratio").holds
    assert sum(name.startswith("MEXA") for name in done.results) == 3


def test_what_cannot_be_asked_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
    path = tmp_path / "texts.csv"
    path.write_text("language,text\na,one\na,two\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 languages"):
        read_language_texts(path)
    path.write_text("language,text\na,one\na,two\nb,three\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 of them with one text"):
        read_language_texts(path)
