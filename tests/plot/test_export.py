"""Charts as files, and as what a notebook asks for."""

import csv
import io
import json
import sys
import types

import pytest

from atlas import synthetic
from conceptlab.errors import ResultError, RunError
from conceptlab.plot import Chart, chart_of, depth_curve
from conceptlab.plot.export import csv_text
from conceptlab.plot.notebook import TYPES, bundle, register


@pytest.fixture(scope="module")
def chart():
    c = synthetic.concept_map("tense", 1)
    return depth_curve(c.depth, name=c.name, best_layer=c.best_layer)


def test_files_by_their_ending(chart, tmp_path):
    assert chart.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "tense: readable by layer" in chart.save(tmp_path / "a.svg").read_text()
    assert json.loads(chart.save(tmp_path / "a.json").read_text())["datasets"]["rows"] == list(chart.rows)
    read = list(csv.DictReader(io.StringIO(chart.save(tmp_path / "a.csv").read_text())))
    assert [float(r["score"]) for r in read] == [r["score"] for r in chart.rows]
    with pytest.raises(ResultError, match=r"\.png, \.svg, \.csv, \.json"):
        chart.save(tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        chart.save(tmp_path / "file" / "a.csv")


def test_no_cell_is_a_formula():
    rows = tuple({"name": name, "value": -1.5} for name in ("=1+1", "@x", "+x", "-x", "plain", 'a"b', "a\nb"))
    read = list(csv.DictReader(io.StringIO(csv_text(Chart("t", "s", {}, rows)))))
    assert [r["name"][0] for r in read[:4]] == ["'"] * 4
    assert [r["name"] for r in read[4:]] == ["plain", 'a"b', "a\nb"]
    assert read[0]["value"] == "-1.5"


def test_a_notebook_gets_a_picture_text_and_the_live_chart(chart):
    shown = chart._repr_mimebundle_()
    assert shown["image/svg+xml"].startswith("<svg")
    assert shown["application/vnd.vegalite.v5+json"]["$schema"].endswith("v5.json")
    assert "shuffled labels" in shown["text/plain"]


def test_results_are_registered_by_name(monkeypatch):
    asked = {}
    formatter = types.SimpleNamespace(for_type_by_name=lambda m, n, f: asked.update({(m, n): f}))
    display = types.SimpleNamespace(mimebundle_formatter=formatter)
    shell = types.SimpleNamespace(display_formatter=display)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert register()
    assert set(asked) == set(TYPES) and all(getattr(sys.modules[m], n) for m, n in TYPES)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not register()


def test_a_result_shows_its_chart_or_its_table():
    c = synthetic.concept_map("tense", 1)
    assert bundle(c.heads)["text/plain"] == chart_of(c.heads)._repr_mimebundle_()["text/plain"]
    odd = c.depth.data.expand_dims(fold=2)
    assert "text/html" in bundle(type(c.depth)(odd, c.depth.provenance))
