"""Charts of the lenses are valid specifications, hold the numbers of the result, and show what a cell means."""

import json

import numpy as np
import pytest

from conceptlab.measure.attribution.direct_logit import direct_logit
from conceptlab.measure.lenses.logit_lens import logit_lens
from conceptlab.measure.lenses.token_lens import token_lens
from conceptlab.plot.contributions import contribution_chart
from conceptlab.plot.export import png
from conceptlab.plot.lens import lens_curve, lens_map, span_chart
from tests.model.tiny import TEXTS, decoder


@pytest.fixture(scope="module")
def lens():
    return logit_lens(decoder(), TEXTS, positions="all", n_random=10)


@pytest.fixture(scope="module")
def spans():
    return token_lens(decoder(), TEXTS, {"a": [[0], [1, 2], [2]]}, [[20, 22], [30, 33], [40, 44]], n_random=4)


@pytest.fixture(scope="module")
def charts(lens, spans):
    found = direct_logit(decoder(), TEXTS, [20, 30, 40], [21, 31, 41], n_random=20)
    return {
        "map": lens_map(lens, text=1, name="x"),
        "rank": lens_curve(lens),
        "score": lens_curve(lens, reading="score"),
        "spans": span_chart(spans),
        "contributions": contribution_chart(found, top=5),
    }


def test_specifications_are_valid_and_data_are_embedded_once(charts):
    for chart in charts.values():
        chart.altair()
        spec = json.dumps(chart.drawing())
        assert '"values": [{' not in spec and json.loads(spec)["datasets"]["rows"] == list(chart.rows)
        assert chart.says.endswith(".") and chart.title
        assert png(chart, scale=0.5)[:4] == b"\x89PNG"


def test_the_map_holds_every_cell_of_one_text(charts, lens):
    rows = charts["map"].rows
    tokens = np.flatnonzero(lens["row"].values == 1)
    assert len(rows) == 3 * len(tokens)
    first = [r for r in rows if r["column"] == "0"]
    np.testing.assert_allclose([r["probability"] for r in first], lens["top_prob"].values[:, tokens[0], 0], rtol=1e-4)
    assert [r["token"] for r in first] == [str(t) for t in lens["top_text"].values[:, tokens[0], 0]]
    commit = int(lens["commit"].values[tokens[0]])
    assert [r["stays"] for r in first] == [at >= commit for at in range(3)]


def test_curves_hold_the_numbers_and_their_controls(charts, lens, spans):
    np.testing.assert_allclose([r["value"] for r in charts["rank"].rows], lens["rank"].values[:, 0], rtol=1e-4)
    np.testing.assert_allclose([r["beside"] for r in charts["score"].rows], lens["control"].values[:, 0], rtol=1e-4)
    assert len(charts["spans"].rows) == spans["score"].size
    assert all(r["control"] is not None for r in charts["spans"].rows)


def test_the_largest_contributions_stand_in_the_models_order(charts):
    rows = charts["contributions"].rows
    assert len(rows) == 5 and all({"score", "low", "high", "control", "q"} <= set(r) for r in rows)
