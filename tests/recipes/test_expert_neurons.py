"""expert-neurons: holds on the planted tree, not on its null twin, and takes a user's model and texts."""

import json

import pytest

from conceptlab.data.concept_texts import read_concept_texts
from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.expert_neurons import on_world, reproduce
from conceptlab.worlds.concept_tree import CONCEPTS, concept_tree
from tests.recipes.findings import quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce)
    found = {f.name: f for f in done.findings}
    assert found["F1 of the experts of all concepts"].value >= 0.9
    alike = found["alignment of expert overlap with given similarities"]
    assert alike.value >= 0.8 and abs(alike.control) < 0.1
    assert found["alignment above that of embeddings"].low > 0


def test_the_null_twin_does_not_hold():
    done = on_world(concept_tree(seed=1, null=True, n_texts=12), seed=1)
    assert not done.holds and done.findings[0].value < 0.2


def test_a_users_model_and_file(tmp_path):
    world, path = concept_tree(seed=2, n_texts=6), tmp_path / "texts.jsonl"
    rows = [
        {"concept": name, "text": text, "category": f"kind{i // 4}"}
        for i, name in enumerate(CONCEPTS[:8])
        for text in world.prompts[name]
    ]
    rows += [{"concept": "negative", "text": text, "category": "none"} for text in world.prompts["negative"]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer), data=path))
    alike = next(f for f in done.findings if f.name.startswith("alignment of expert overlap"))
    assert alike.holds and done.provenance.settings["concepts"] == 8


def test_what_cannot_be_asked_is_one_line(tmp_path):
    with pytest.raises(InputError, match="--model and --data together"):
        reproduce(Setup(quick=True, data=tmp_path / "any.csv"))
    path = tmp_path / "texts.csv"
    path.write_text("concept,text\na,one\na,two\n", encoding="utf-8")
    with pytest.raises(DataError, match="1 concepts and 0 negative texts"):
        read_concept_texts(path)
