"""Every chart is a valid Vega-Lite specification and holds the numbers of the result, and those only once."""

import json

import numpy as np
import pytest
import xarray as xr

from atlas import synthetic
from conceptlab.plot import chart_of, cosine_map, depth_curve, depth_map, effect_chart, head_map, neuron_ranking
from conceptlab.results import Provenance, Scores, Units


@pytest.fixture(scope="module")
def whole():
    return synthetic.atlas(synthetic.NAMES[:3])


@pytest.fixture(scope="module")
def charts(whole):
    c = whole.concepts[1]
    return {
        "depth": depth_curve(c.depth, name=c.name, best_layer=c.best_layer, jump=c.jump, settled=c.settled),
        "map": depth_map({x.name: x.depth for x in whole.concepts}, found=[whole.concepts[0].name]),
        "heads": head_map(c.heads, name=c.name),
        "neurons": neuron_ranking(c.neurons, name=c.name),
        "effects": effect_chart(c.effects, name=c.name),
        "cosines": cosine_map(whole.geometry),
    }


def test_specifications_are_valid(charts):
    for chart in charts.values():
        chart.altair()
        assert chart.says.endswith(".") and chart.title


def test_a_wrong_specification_would_be_noticed(charts):
    spec = charts["depth"].to_dict()
    spec["layer"][0]["mark"] = {"type": "no such mark"}
    import altair

    with pytest.raises(Exception, match="no such mark"):
        altair.Chart.from_dict(spec)


def test_each_data_set_is_embedded_once(charts):
    for chart in charts.values():
        spec = json.dumps(chart.drawing())
        assert '"values": [{' not in spec
        assert json.loads(spec)["datasets"]["rows"] == list(chart.rows)


def test_depth_curve_holds_the_numbers(charts, whole):
    c = whole.concepts[1]
    for column in ("score", "low", "high", "control", "control_task", "noised", "quantised"):
        np.testing.assert_allclose([r[column] for r in charts["depth"].rows], c.depth[column].values, rtol=1e-5)
    marks = {m["what"]: m for m in charts["depth"].more["marks"]}
    assert marks["best layer"]["score"] == pytest.approx(c.score, rel=1e-5)
    assert marks["jump"]["at"] == pytest.approx(c.jump * 8, rel=1e-5)


def test_depth_curve_draws_only_what_was_measured(whole):
    depth = whole.concepts[0].depth
    data = depth.data.drop_vars("noised").assign(quantised=depth["quantised"] * np.nan)
    chart = depth_curve(Scores(data, depth.provenance), best_layer="5", jump=None, settled=float("nan"))
    line = next(layer for layer in chart.body["layer"] if "transform" in layer and "fold" in layer["transform"][0])
    assert line["transform"][0]["fold"] == ["score", "control", "control_task"]
    assert [m["what"] for m in chart.more["marks"]] == ["best layer"]
    chart.altair()


def test_depth_map_shows_the_score_above_its_control(charts, whole):
    for c in whole.concepts:
        rows = [r for r in charts["map"].rows if r["concept"] == c.name]
        np.testing.assert_allclose([r["above"] for r in rows], c.depth["score"] - c.depth["control"], atol=2e-6)
        assert all(r["verdict"] == ("found" if c is whole.concepts[0] else "not found") for r in rows)
        assert sum(r["best"] for r in rows) == (c is whole.concepts[0])


def test_units_are_all_there_and_the_significant_ones_marked(charts, whole):
    c = whole.concepts[1]
    for chart, units, letter in ((charts["heads"], c.heads, "H"), (charts["neurons"], c.neurons, "N")):
        name = "head" if letter == "H" else "neuron"
        shown = {r[name]: r for r in chart.rows}
        table = units.table
        assert len(shown) == table.sizes["unit"]
        for i in range(table.sizes["unit"]):
            row = shown[f"L{int(table['layer'][i])}.{letter}{int(table['index'][i])}"]
            assert row["score"] == pytest.approx(float(table["score"][i]), rel=1e-5)
            assert row["found"] == (float(table["q"][i]) <= 0.05)
    best = [str(site).removesuffix(".mlp_post") for site in c.neurons.top(4)]
    assert {r["label"] for r in charts["neurons"].rows if r["label"]} == set(best)


def test_many_neurons_are_thinned_but_the_best_stay():
    rng = np.random.default_rng(0)
    n = 40_000
    columns = {"score": rng.random(n), "control": np.full(n, 0.5), "p": np.ones(n), "q": np.ones(n)}
    place = {"layer": np.arange(n) // 4000, "index": np.arange(n) % 4000}
    units = Units.from_arrays("neuron", **place, **columns, provenance=synthetic.provenance("neurons"))
    chart = neuron_ranking(units, null_max=0.9)
    best = np.sort(columns["score"])[::-1][:200]
    np.testing.assert_allclose([r["score"] for r in chart.rows[:200]], best, rtol=1e-5)
    assert 550 <= len(chart.rows) <= 600
    assert min(r["score"] for r in chart.rows) < 0.01
    assert f"{len(chart.rows):,} in all" in chart.says and "largest score under the null" in chart.says


def test_names_of_neurons_do_not_lie_on_one_another():
    score = np.array([0.99, 0.985, 0.98, 0.80, 0.79, 0.1])
    columns = {"score": score, "control": np.full(6, 0.1), "p": np.zeros(6), "q": np.array([0, 0, 0, 0, 0, 1.0])}
    place = {"layer": np.array([7, 7, 7, 2, 7, 0]), "index": np.array([0, 34, 55, 0, 89, 0])}
    units = Units.from_arrays("neuron", **place, **columns, provenance=synthetic.provenance("neurons"))
    assert [row["label"] is not None for row in neuron_ranking(units).rows] == [True, False, False, True, True, False]


def test_effects_stand_over_their_controls(charts, whole):
    effects = whole.concepts[1].effects
    assert len(charts["effects"].rows) == 8
    for row in charts["effects"].rows:
        cell = effects.data.sel(intervention=row["intervention"], readout=row["readout"])
        for column in ("score", "low", "high", "control", "control_high", "p"):
            assert row[column] == pytest.approx(float(cell[column]), rel=1e-5)
        assert row["control_from"] <= row["control"] <= row["control_high"]


def test_cosines_without_an_unembedding_have_one_panel(charts, whole):
    assert {r["panel"] for r in charts["cosines"].rows} == {"plain cosine", "cosine under the causal inner product"}
    data = whole.geometry.data.assign(causal=whole.geometry["causal"] * np.nan)
    chart = cosine_map(Scores(data, whole.geometry.provenance))
    assert {r["panel"] for r in chart.rows} == {"plain cosine"}


def test_the_chart_is_chosen_by_what_the_result_is(whole):
    c = whole.concepts[0]
    for result, title in ((c.depth, "Readable"), (c.heads, "Heads"), (c.neurons, "Neurons"), (c.effects, "Is it used")):
        chart = chart_of(result)
        assert chart is not None and chart.title.startswith(title)
    assert chart_of(whole.geometry) is not None
    other = xr.Dataset({"score": ("token", [1.0]), "control": ("token", [0.0])})
    assert chart_of(Scores(other, c.depth.provenance)) is None


def effects(dims: tuple[str, str]) -> Scores:
    score = np.array([[1.0, 0.001, np.nan], [-0.4, 0.0, 0.02]])
    columns = {
        "score": score,
        "low": score - 0.1,
        "high": score + 0.1,
        "control": score * 0,
        "p": score * 0,
        "q": score * 0,
    }
    data = xr.Dataset({n: (dims, v) for n, v in columns.items()}, coords={dims[0]: [0, 1], dims[1]: [0, 1, 2]})
    data["clean"] = ("row", np.ones(4))
    data.attrs.update(site="z", direction="noising")
    return Scores(data, Provenance("activation patching", 4, 0))


@pytest.mark.parametrize("dims", [("layer", "head"), ("layer", "position"), ("layer", "span"), ("receiver", "sender")])
def test_an_effect_map_outlines_what_is_found_and_more_than_a_trace(dims):
    chart = chart_of(effects(dims))
    assert chart is not None
    chart.altair()
    assert [r["found"] for r in chart.rows] == [True, False, False, True, False, True]
    assert "3 of 6 cells are outlined" in chart.says


def test_a_ranking_whose_table_has_other_axes_is_drawn_by_unit_alone():
    """A finder may keep [unit, cell] and [unit, kind] beside the ranking: their product is no set of points."""
    from conceptlab.plot.neurons import neuron_ranking
    from conceptlab.results import Provenance, Scores, Units

    ranked = {name: ("unit", np.arange(4.0) / 4) for name in ("layer", "index", "score", "control", "p", "q")}
    wide = {"covers": (("unit", "cell"), np.zeros((4, 300))), "matches": (("unit", "kind"), np.zeros((4, 50)))}
    data = xr.Dataset({**ranked, **wide}, attrs={"kind": "neuron"})
    whole = data.assign(layer=("unit", np.zeros(4, int)), index=("unit", np.arange(4)))
    chart = neuron_ranking(Units("neuron", Scores(whole, Provenance("any", 4, 0))))
    assert len(chart.rows) == 4
