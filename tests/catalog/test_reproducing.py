"""Running a row: what is checked beforehand, what the recipe is given, and what is written."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import xarray as xr

from catalog.tiny_recipe import ID, put, recipe_folder
from conceptlab.catalog import full_record, recipes, reproduce, save_reproduction
from conceptlab.catalog.saving import plain
from conceptlab.errors import InputError, ResultError, RunError
from conceptlab.results import Scores, Units
from conceptlab.results.saving import file_name

__all__ = ["recipe_folder"]


def test_a_recipe_gets_the_setup_and_its_time_is_taken(recipe_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("text\n")
    put(recipe_folder, model="any", data="a table", body="import time; time.sleep(0.02)")
    done = reproduce(ID, model=SimpleNamespace(name="mine"), data=data, quick=True, seed=3)
    assert (done.provenance.seed, done.provenance.model) == (3, "mine")
    assert done.notes == ("quick=True", f"data={data}")
    assert done.seconds >= 0.02


def test_what_a_recipe_does_not_take_is_refused_before_it_runs(recipe_folder: Path, tmp_path: Path) -> None:
    put(recipe_folder, body="raise RuntimeError('it ran')")
    with pytest.raises(InputError, match="takes no model: it runs on a made-up world"):
        reproduce(ID, model="gpt2")
    with pytest.raises(InputError, match="takes no data file"):
        reproduce(ID, data=tmp_path)
    put(recipe_folder, data="a table")
    with pytest.raises(InputError, match=r"absent.csv: no such file; lcm-future expects a table"):
        reproduce(ID, data="absent.csv")
    with pytest.raises(InputError, match="is not built"):
        reproduce("soft-thinking")
    with pytest.raises(InputError, match="its method runs with: conceptlab map MODEL"):
        reproduce("concept-depth")


def test_a_recipe_that_returns_another_row_is_refused(recipe_folder: Path) -> None:
    put(recipe_folder)
    path = recipe_folder / "lcm_future.py"
    path.write_text(path.read_text().replace('Reproduction(RECIPE["id"]', 'Reproduction("soft-thinking"'))
    with pytest.raises(ResultError, match="returned the numbers of 'soft-thinking'"):
        reproduce(ID)


def test_the_folder_holds_numbers_results_and_charts(recipe_folder: Path, tmp_path: Path) -> None:
    put(recipe_folder)
    out = tmp_path / "out"
    done = reproduce(ID)
    record = save_reproduction(done, recipes()[ID], out)
    assert json.loads((out / "reproduction.json").read_text()) == record
    assert record["findings"][0]["value"] == 0.9
    assert (record["findings"][1]["value"], record["findings"][1]["control"]) == (None, None)
    assert record["control"] == "the same share on shuffled labels"
    assert (record["results"], record["charts"]) == (["results/the-heads"], ["charts/the-heads.png"])
    assert (out / "charts" / "the-heads.png").read_bytes().startswith(b"\x89PNG")
    assert Units.load(out / "results" / "the-heads").table.equals(done.results["the heads"].table)
    assert save_reproduction(done, recipes()[ID], out) == record  # again, over the same folder


def test_a_result_that_cannot_be_drawn_is_saved_all_the_same(recipe_folder: Path, tmp_path: Path) -> None:
    put(recipe_folder)
    done = reproduce(ID)
    heads = done.results["the heads"]
    bare = Scores(  # the axes of a chart of effects, without its columns
        xr.Dataset({name: (("intervention", "readout"), [[1.0]]) for name in ("score", "control")}),
        heads.scores.provenance,
    )
    done = replace(done, results={"bare": bare, "words": "no result"})
    record = save_reproduction(done, recipes()[ID], tmp_path / "out")
    assert (record["results"], record["charts"]) == (["results/bare"], [])


def test_a_folder_that_cannot_be_written_is_a_run_error(recipe_folder: Path, tmp_path: Path) -> None:
    put(recipe_folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        save_reproduction(reproduce(ID), recipes()[ID], tmp_path / "file")


def test_a_record_is_plain_json(recipe_folder: Path) -> None:
    import numpy as np

    put(recipe_folder)
    json.dumps(full_record(reproduce(ID), recipes()[ID]), allow_nan=False)
    assert plain({"a": (np.float32(0.5), np.array([1, 2])), 3: {True}}) == {"a": [0.5, [1, 2]], "3": [True]}
    assert plain([float("inf"), None, Path("x")]) == [None, None, "x"]


@pytest.mark.parametrize(
    ("name", "file"), [("../../etc", "etc"), ("", "result"), ("a b/c", "a-b-c"), ("x" * 300, "x" * 80)]
)
def test_a_result_cannot_leave_its_folder(name: str, file: str) -> None:
    assert file_name(name) == file
