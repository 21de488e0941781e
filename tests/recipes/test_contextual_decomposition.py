"""contextual-decomposition: holds on the planted worlds, not on their null twins, and runs on a user's model and file."""

import json

import pytest

from conceptlab.data.answer_pairs import read_answer_pairs, read_tasks
from conceptlab.errors import DataError, InputError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.contextual_decomposition import on_worlds, reproduce
from conceptlab.worlds.ioi import ioi
from tests.recipes.findings import by_name, quick_form


def test_the_quick_form_holds_beside_its_controls():
    done = quick_form(reproduce)
    found = by_name(done)
    assert done.holds and all(f.holds for f in done.findings if not f.name.startswith("blind spot"))
    assert found["relevant + irrelevant miss the stream, of its size"].value < 1e-5
    assert found["relevant + irrelevant miss the stream, of its size"].control > 1e-2
    assert found["AUC of the planted heads"].value == 1.0
    blind = next(f for f in done.findings if f.name.startswith("blind spot"))
    assert abs(blind.value) < 0.05 and blind.control > 10 and "L1.H0 (score" in done.notes[0]
    assert set(done.results) == {"scores", "circuit", "phrases"}


@pytest.mark.parametrize("seed", [10, 11])
def test_null_twins_do_not_hold(seed):
    done = on_worlds(quick=True, seed=seed, null=True)
    held = {name for name, f in by_name(done).items() if f.holds}
    assert not done.holds
    # identities and costs hold for any model; what is found does not
    assert held <= {
        "relevant + irrelevant miss the stream, of its size",
        "on a linear model scores miss the effect of removal, of its size",
        "passes a prompt, all sources on all receivers",
    }


@pytest.fixture(scope="module")
def world():
    return ioi(seed=10)


def rows(world, n=8, phrase=True):
    kept = []
    for clean, other, right, wrong in zip(
        world.prompts["clean"], world.prompts["swapped"], world.answers["clean"], world.answers["swapped"], strict=True
    ):
        kept.append({"clean": clean, "corrupted": other, "answer": right, "distractor": wrong})
        if phrase:
            kept[-1]["phrase"] = right
    return kept[:n]


def test_a_users_model_and_file_run(world, tmp_path):
    path = tmp_path / "names.jsonl"
    path.write_text("\n".join(map(json.dumps, rows(world))), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=load_model(world.model, tokenizer=world.tokenizer), data=path))
    assert done.holds and done.provenance.n == 8
    assert by_name(done)["the marked phrase ranks first in its text"].holds is None
    assert {"L1.H0", "L2.H0"} <= set(done.results["circuit"].nodes)


def test_model_and_data_go_together(world, tmp_path):
    with pytest.raises(InputError, match="together"):
        reproduce(Setup(quick=True, data=tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"distractor": "Ada", "answer": "Ada"}, "both"),
        ({"corrupted": None}, "'corrupted' is empty"),
        ({"phrase": "nowhere"}, "does not stand in the clean text"),
    ],
)
def test_a_wrong_row_is_one_clear_line(world, tmp_path, change, says):
    path = tmp_path / "names.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows(world, 2), {**rows(world, 1)[0], **change}])), encoding="utf-8")
    with pytest.raises(DataError, match=f"line 3.*{says}") as caught:
        read_answer_pairs(path, marks="phrase")
    assert "\n" not in str(caught.value)


def test_a_folder_of_tasks_needs_two_files(world, tmp_path):
    text = "\n".join(map(json.dumps, rows(world, 3, phrase=False)))
    (tmp_path / "one.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="one file a task, at least two"):
        read_tasks(tmp_path)
    (tmp_path / "two.jsonl").write_text(text, encoding="utf-8")
    tasks = read_tasks(tmp_path, most=2)
    assert [t.name for t in tasks] == ["one", "two"] and len(tasks[0].clean) == 2 and tasks[0].marked is None
