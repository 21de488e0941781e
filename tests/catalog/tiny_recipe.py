"""A recipe of one second for the tests, in a folder of its own: what the catalogue and the commands do with any recipe."""

import sys
from pathlib import Path

import pytest

import conceptlab.recipes

ID = "lcm-future"
SOURCE = '''"""A small recipe."""

import numpy as np

from conceptlab.recipes import Setup
from conceptlab.results import Finding, Provenance, Reproduction, Units

RECIPE = {
    "id": "lcm-future",
    "claim": "Something was claimed.",
    "number": "a share",
    "control": "the same share on shuffled labels",
    "world": "a made-up world",
    "model": MODEL,
    "data": DATA,
    "methods": ["find/heads/readable_heads"],
}


def reproduce(setup: Setup) -> Reproduction:
    """Return what was asked for as numbers."""
    BODY
    provenance = Provenance(method="tiny", n=4, seed=setup.seed, model=getattr(setup.model, "name", ""))
    findings = (
        Finding("share", 0.9, 0.1, "at least 0.8", HOLDS, low=0.85, high=0.95),
        Finding("odd", float("nan"), float("inf"), "reported", None, unit="nats"),
    )
    four, half = np.arange(4), np.full(4, 0.5)
    heads = Units.from_arrays("head", layer=four // 2, index=four % 2, score=half, control=half - 0.4, p=half, q=half,
                              provenance=provenance)
    notes = (f"quick={setup.quick}", f"data={setup.data}")
    return Reproduction(RECIPE["id"], findings, provenance, notes=notes, results={"the heads": heads})
'''


def put(folder: Path, *, model: str = "", data: str = "", holds: bool = True, body: str = "pass") -> None:
    """Write the recipe into `folder`; `body` is one line that runs first."""
    text = SOURCE.replace("MODEL", repr(model)).replace("DATA", repr(data)).replace("HOLDS", str(holds))
    (folder / "lcm_future.py").write_text(text.replace("BODY", body))


@pytest.fixture
def recipe_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which recipes are found, and only there."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    monkeypatch.setattr(conceptlab.recipes, "__path__", [str(folder)])
    for name in [name for name in sys.modules if name.startswith("conceptlab.recipes.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two versions written within one second must not be confused
    yield folder
    sys.modules.pop("conceptlab.recipes.lcm_future", None)
