"""Every recipe that the folder holds: its quick form runs in seconds, is the row's, and no number stands without its control."""

import math
import time
from pathlib import Path

import pytest

from conceptlab.catalog import Recipe, papers, recipes
from conceptlab.catalog.reproducing import runner
from conceptlab.recipes import Setup
from conceptlab.results import Finding, Reproduction

QUICK = 10  # seconds of one thread that a quick form may take
BROKEN = 3 * QUICK  # a loaded machine may double the time; beyond this the form is not quick
RECIPES = recipes()


def test_recipes_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    files = {path.stem for path in (Path(__file__).parents[2] / "src/conceptlab/recipes").glob("*.py")} - {"__init__"}
    with capsys.disabled():
        print(f"\nrecipes: {len(RECIPES)} of {len(papers())} rows: {', '.join(RECIPES)}")
    assert {recipe.module for recipe in RECIPES.values()} == files


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_the_quick_form_runs(recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    run, threads = runner(recipe), torch.get_num_threads()
    torch.set_num_threads(1)
    started = time.process_time()
    try:
        done = run(Setup(quick=True, cache=tmp_path))  # an empty cache: what is trained is trained here
    finally:
        torch.set_num_threads(threads)
    seconds = time.process_time() - started
    with capsys.disabled():
        print(f"\n{recipe.id}: {len(done.findings)} findings, holds: {done.holds}, {seconds:.1f} s of {QUICK}")
    assert isinstance(done, Reproduction)
    assert done.id == recipe.id
    assert done.findings
    assert not [problem for finding in done.findings if (problem := unsupported(finding, done.notes))]
    assert seconds <= BROKEN


def unsupported(finding: Finding, notes: tuple[str, ...]) -> str:
    """What a finding lacks: a bar, or a control where no note that names the finding says why there is none."""
    if not finding.bar.strip():
        return f"{finding.name}: no bar"
    excused = any(finding.name in note for note in notes)
    if (finding.control is None or math.isnan(finding.control)) and not excused:
        return f"{finding.name}: no control, and no note names it and says why"
    return ""


def test_the_judge_sees_what_is_missing() -> None:
    whole = Finding("share", 1.0, 0.0, "at least 0.5", True)
    assert not unsupported(whole, ())
    assert unsupported(Finding("share", 1.0, 0.0, " ", True), ())
    assert unsupported(Finding("share", 1.0, None, "at least 0.5", True), ("the other is exact",))
    assert not unsupported(
        Finding("share", 1.0, None, "at least 0.5", True), ("share: exact by construction, nothing to shuffle",)
    )
