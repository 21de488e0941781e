"""Every chart of an atlas as files, in folders that a hostile name cannot leave."""

import dataclasses

import pytest

from conceptlab.atlas.export import export_charts
from conceptlab.errors import ResultError, RunError

from . import synthetic


@pytest.fixture(scope="module")
def whole():
    return synthetic.atlas(synthetic.NAMES[:1])


def test_every_chart_in_every_format(whole, tmp_path):
    written = export_charts(whole, tmp_path / "charts")
    assert all(path.is_file() and path.stat().st_size > 200 for path in written)
    names = {path.relative_to(tmp_path / "charts").as_posix() for path in written}
    charts = ("depth_map", "animal/depth", "animal/effects", "animal/heads", "animal/neurons")
    assert names == {f"{chart}.{kind}" for chart in charts for kind in ("png", "svg", "csv")}


def test_names_stay_inside_the_folder(whole, tmp_path):
    concepts = tuple(dataclasses.replace(whole.concepts[0], name=name) for name in ("../../up", "a/b"))
    hostile = dataclasses.replace(whole, concepts=concepts, geometry=synthetic.geometry(("../../up", "a/b")))
    written = export_charts(hostile, tmp_path / "charts", formats=("csv",))
    assert len(written) == 10 and all(path.resolve().is_relative_to(tmp_path / "charts") for path in written)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["charts"]


def test_errors_are_named(whole, tmp_path):
    with pytest.raises(ResultError, match="gif"):
        export_charts(whole, tmp_path, formats=("gif",))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot"):
        export_charts(whole, tmp_path / "file" / "charts", formats=("csv",))
