"""`make rows` and docs/papers.md: what was measured is what the page shows, and nothing else is."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import rows
from catalog.tiny_recipe import ID, put, recipe_folder
from conceptlab.catalog import full_record, paper, recipes, reproduce
from conceptlab.catalog.reproducing import SECONDS_FILE

__all__ = ["recipe_folder"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def measured(recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `make rows` has run the tiny recipe, beside a row whose recipe has gone."""
    put(recipe_folder)
    (tmp_path / "numbers.json").write_text('{"gone": {}}')
    monkeypatch.setattr(rows, "NUMBERS", tmp_path / "numbers.json")
    monkeypatch.setattr(rows, "SECONDS_FILE", tmp_path / "seconds.json")
    monkeypatch.setattr(rows, "run", lambda id, *options: full_record(reproduce(id), recipes()[id]))
    monkeypatch.setattr(sys, "argv", ["rows"])
    assert rows.main() == 0
    return tmp_path


def test_the_numbers_of_a_run_are_kept_and_shown(measured: Path, build: ModuleType) -> None:
    numbers = json.loads((measured / "numbers.json").read_text())
    assert set(numbers) == set(json.loads((measured / "seconds.json").read_text())) == {ID}
    line = build.paper_row(paper(ID), numbers[ID])
    assert "share: 0.9 [0.85, 0.95] (at least 0.8: holds)" in line
    assert "0.1 (share)" in line
    assert f"`conceptlab reproduce {ID}`" in line
    assert line.count("|") == 6
    numbers[ID] |= {"holds": False, "findings": [{**numbers[ID]["findings"][0], "holds": False}]}
    assert "works, does not hold" in build.paper_row(paper(ID), numbers[ID])
    assert "no full run yet" in build.paper_row(paper(ID), None)


def test_a_row_that_fails_keeps_its_numbers(measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (measured / "numbers.json").read_text()
    monkeypatch.setattr(rows, "run", lambda id, *options: None)
    assert rows.main() == 1
    assert (measured / "numbers.json").read_text() == before


def test_the_page_has_all_rows_and_says_what_is_not_built(build: ModuleType) -> None:
    lines = [line for line in build.papers_page().splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(lines) == 150
    built = set(recipes())
    for line in lines:
        id, state = (cell.strip() for cell in line.split("|")[1:3])
        assert (state == "not built") == (id not in built and id != "concept-depth")


def test_what_is_committed_belongs_to_recipes() -> None:
    assert set(rows.read(rows.NUMBERS)) <= set(recipes())
    assert set(rows.read(SECONDS_FILE)) <= set(recipes())
