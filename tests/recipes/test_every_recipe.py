"""Every recipe that the folder holds has a test of its own that runs and judges its quick form."""

from pathlib import Path

import pytest

from conceptlab.catalog import papers, recipes
from conceptlab.results import Finding
from tests.recipes.findings import unsupported

RECIPES = recipes()
HERE = Path(__file__).parent


def test_recipes_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    files = {path.stem for path in (HERE.parents[1] / "src/conceptlab/recipes").glob("*.py")} - {"__init__"}
    with capsys.disabled():
        print(f"\nrecipes: {len(RECIPES)} of {len(papers())} rows: {', '.join(RECIPES)}")
    assert {recipe.module for recipe in RECIPES.values()} == files


@pytest.mark.parametrize("module", [recipe.module for recipe in RECIPES.values()])
def test_its_quick_form_is_run_and_judged(module: str) -> None:
    assert "quick_form(reproduce" in (HERE / f"test_{module}.py").read_text(encoding="utf-8")


def test_the_judge_sees_what_is_missing() -> None:
    whole = Finding("share", 1.0, 0.0, "at least 0.5", True)
    assert not unsupported(whole, ())
    assert unsupported(Finding("share", 1.0, 0.0, " ", True), ())
    alone = Finding("share", 1.0, None, "at least 0.5", True)
    assert unsupported(alone, ("the other is exact",))
    assert not unsupported(alone, ("share: exact by construction, nothing to shuffle",))
