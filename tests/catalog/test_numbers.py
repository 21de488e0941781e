"""The measured numbers belong to rows that run, and are packed with the package."""

import tomllib
from pathlib import Path

from conceptlab.catalog import papers
from conceptlab.catalog.numbers import PLACES, numbers

ROOT = Path(__file__).parents[2]


def test_every_measured_row_is_a_row_that_runs():
    running = {row.id for row in papers() if row.recipe is not None}
    assert numbers() and set(numbers()) <= running
    for said in numbers().values():
        assert said["findings"] and all({"name", "value", "control", "holds"} <= set(f) for f in said["findings"])


def test_the_file_is_packed_where_it_is_looked_for():
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    ((source, target),) = built["force-include"].items()
    assert (ROOT / source).resolve() == PLACES[1].resolve()
    assert (ROOT / "src" / target).resolve() == PLACES[0].resolve()
