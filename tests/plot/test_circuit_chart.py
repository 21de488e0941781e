"""The picture of a circuit: every edge and node once, nothing on top of anything, and words that say what is not drawn."""

import csv
import dataclasses
import io
import itertools

import numpy as np
import pytest

from conceptlab.plot import chart_of, circuit_graph
from conceptlab.plot.circuit_layout import GAP, HEIGHT, ROW, layout
from conceptlab.plot.export import csv_text, png
from conceptlab.plot.layered import FIXED, crossings, place
from conceptlab.plot.notebook import bundle
from conceptlab.results import Circuit, GraphShape, Provenance, all_edges
from conceptlab.worlds.ioi import ioi

PROVENANCE = Provenance("by hand", n=8, seed=0)


def drawn_at_random(shape, n, seed=0, **columns):
    rng = np.random.default_rng(seed)
    source, target = all_edges(shape)
    picked = rng.choice(len(source), n, replace=False)
    return Circuit(shape, source[picked], target[picked], rng.standard_t(3, size=n), PROVENANCE, **columns)


def wide(n):
    """Every head of one layer, and nothing else."""
    shape = GraphShape(2, n)
    return Circuit.from_edges(shape, [(f"L0.H{h}", "L1.mlp", 1 + h) for h in range(n)], PROVENANCE)


@pytest.fixture(scope="module")
def circuits():
    edges = ioi(n_prompts=2).truth["edges"]
    rng = np.random.default_rng(0)
    columns = {name: rng.random(60) for name in ("low", "high", "control", "p", "q")}
    return {
        "ioi": Circuit.from_edges(GraphShape(3, 4), edges, PROVENANCE, metric="logit_diff"),
        "medium": drawn_at_random(GraphShape(12, 12), 60, **columns, exact=np.where(np.arange(60) < 5, 1.0, np.nan)),
        "shared": drawn_at_random(GraphShape(6, 8, 2), 70),
        "parallel": drawn_at_random(GraphShape(6, 4, 4, True, (2,)), 50),
        "large": drawn_at_random(GraphShape(12, 12), 900),
        "wide": wide(40),
        "empty": Circuit.from_edges(GraphShape(2, 2), [], PROVENANCE),
        "one": Circuit.from_edges(GraphShape(2, 2), [("embed", "logits", -1.0)], PROVENANCE),
        "weightless": Circuit.from_edges(GraphShape(2, 2), [("embed", "L0.H1.q", 0.0)], PROVENANCE),
    }


@pytest.fixture(scope="module")
def charts(circuits):
    return {name: circuit_graph(circuit, name=name) for name, circuit in circuits.items()}


def test_specifications_are_valid_and_hold_each_data_set_once(charts):
    for chart in charts.values():
        # the schema is checked on a few rows of each data set: thousands of alike take seconds
        few = {name: rows[:2] for name, rows in chart.more.items()}
        dataclasses.replace(chart, rows=chart.rows[:2], more=few).altair()
        assert chart.says.endswith(".") and chart.title.endswith(": circuit")
        spec = chart.drawing()
        assert set(spec["datasets"]) == {"rows", *chart.more}
        assert all("values" not in layer.get("data", {}) for layer in spec["layer"])


def test_every_edge_is_drawn_with_its_numbers(charts, circuits):
    for name in ("ioi", "medium", "shared", "parallel", "wide"):
        c, rows = circuits[name], charts[name].rows
        weight = dict(zip(c.edge_names(), c.weights, strict=True))
        assert len(rows) == len(c) and {(r["source"], r["target"]) for r in rows} == set(weight)
        for row in rows:
            assert row["weight"] == pytest.approx(weight[row["source"], row["target"]], rel=1e-5)
            assert row["sign"] == ("negative" if row["weight"] < 0 else "positive")
        by_rank = [abs(row["weight"]) for row in sorted(rows, key=lambda r: r["rank"])]
        assert by_rank == sorted(by_rank, reverse=True)
    rows, c = charts["medium"].rows, circuits["medium"]
    measured = dict(zip(c.edge_names(), zip(c.control, c.exact, c.q, strict=True), strict=True))
    for row in rows:
        control, exact, q = measured[row["source"], row["target"]]
        assert row["control"] == pytest.approx(control, rel=1e-5) and row["dashed"] == (q > 0.05)
        assert row["exact"] == (None if np.isnan(exact) else exact)
    assert "exact" not in charts["ioi"].rows[0]


def test_every_line_goes_from_its_source_up_into_its_input(charts):
    for chart in charts.values():
        nodes = {node["node"]: node for node in chart.more["nodes"]}
        for row in chart.rows:
            points = [(p["x"], p["y"]) for p in chart.more["points"] if p["rank"] == row["rank"]]
            source, target = nodes[row["source"]], nodes[row["enters"]]
            assert source["left"] <= points[0][0] <= source["right"] and points[0][1] == source["top"]
            assert target["left"] <= points[-1][0] <= target["right"] and points[-1][1] == target["bottom"]
            assert all(low <= high for (_, low), (_, high) in itertools.pairwise(points))
            chords = [c for c in chart.more["chords"] if c["rank"] == row["rank"]]
            assert (chords[0]["x"], chords[0]["y"]) == points[0] and (chords[-1]["x2"], chords[-1]["y2"]) == points[-1]


def test_nodes_are_those_of_the_circuit_and_never_overlap(charts, circuits):
    for name, chart in charts.items():
        nodes = chart.more["nodes"]
        boxes = [node for node in nodes if node["kind"] != "kv"]
        if name not in ("large", "shared"):
            assert {node["node"] for node in boxes} == set(circuits[name].nodes)
        for a, b in itertools.combinations(nodes, 2):
            apart = a["right"] + GAP / 2 <= b["left"] or b["right"] + GAP / 2 <= a["left"]
            assert apart or a["top"] < b["bottom"] or b["top"] < a["bottom"], (name, a, b)
        for node in nodes:
            assert node["left"] >= 0 and node["right"] <= chart.body["width"] + 1
            assert node["bottom"] >= 0 and node["top"] <= chart.body["height"] + 1
        layers = {int(row["layer"].split()[1]): row for row in chart.more["layers"]}
        for node in nodes:
            if node["kind"] not in ("embed", "logits"):
                band = layers[int(node["node"][1:].split(".")[0])]
                assert band["bottom"] < node["bottom"] and node["top"] < band["top"]
        bands = [layers[i] for i in sorted(layers)]
        assert all(a["top"] < b["bottom"] for a, b in itertools.pairwise(bands))


def test_long_edges_pass_beside_the_nodes_of_the_layers_between(circuits):
    """On the way through a row every edge keeps clear of the boxes that stand there."""
    for name in ("medium", "shared", "parallel", "large"):
        drawing = layout(circuits[name].top(150))
        for wire in drawing.wires:
            for row, x in zip(wire.passed, wire.lanes, strict=True):
                there = [n for n in drawing.nodes if n.row == row and n.kind in ("head", "kv")]
                assert all(abs(x - node.x) >= node.width / 2 for node in there)


def test_heads_stand_left_of_their_mlp_and_many_heads_in_several_rows(charts):
    nodes = charts["wide"].more["nodes"]
    heads = [node for node in nodes if node["kind"] == "head"]
    assert len({node["y"] for node in heads}) == -(-40 // ROW)
    for name in ("medium", "parallel", "large"):
        nodes = {node["node"]: node for node in charts[name].more["nodes"]}
        mlps = [node for node in nodes.values() if node["kind"] == "mlp"]
        assert mlps and len({node["x"] for node in mlps}) == 1
        assert all(n["right"] < mlps[0]["left"] for n in nodes.values() if n["kind"] == "head")


def test_shared_keys_and_values_stand_under_their_heads(charts, circuits):
    chart = charts["shared"]
    boxes = {n["node"]: n for n in chart.more["nodes"]}
    keyed = [row for row in chart.rows if row["target"].endswith((".k", ".v"))]
    assert keyed and all(row["enters"] == row["target"][:-2].replace("H", "KV") for row in keyed)
    assert chart.more["served"]
    for line in chart.more["served"]:
        low = next(n for n in boxes.values() if (n["x"], n["top"]) == (line["x"], line["y"]))
        high = next(n for n in boxes.values() if (n["x"], n["bottom"]) == (line["x2"], line["y2"]))
        layer, group = low["node"].split(".KV")
        assert high["node"].split(".H")[0] == layer and int(high["node"].split(".H")[1]) // 4 == int(group)
    assert not charts["medium"].more["served"]


def test_of_many_edges_the_strongest_are_drawn_and_the_rest_is_counted(charts, circuits):
    rows = charts["large"].rows
    weakest = min(abs(row["weight"]) for row in rows)
    assert len(rows) == 150 and (np.abs(circuits["large"].weights) > weakest + 1e-9).sum() <= 150
    assert (
        "900 of 32,491 edges" in charts["large"].says and "150 strongest are drawn, 750 are not" in charts["large"].says
    )
    assert "strongest" not in charts["medium"].says
    assert "1 is not" in circuit_graph(circuits["ioi"], most=6).says


def test_the_words_name_the_metric_the_null_and_the_sign(charts, circuits):
    assert "lowers logit_diff" in charts["ioi"].says and "No null was measured." in charts["ioi"].says
    null = circuits["medium"].control.max()
    assert f"Under the null the largest |score| is {null:.3g}." in charts["medium"].says
    assert "Dashed: q above 0.05" in charts["medium"].says and "Dashed" not in charts["ioi"].says
    other = Circuit.from_edges(GraphShape(2, 2), [("embed", "logits")], PROVENANCE, sign_convention="by\u202e loss")
    assert r"orange negative (by\u202e loss)" in circuit_graph(other).says


def test_pictures_files_and_notebooks(charts, circuits, tmp_path):
    for name in ("ioi", "shared", "empty", "one", "weightless"):
        assert png(charts[name], dark=name == "ioi", scale=1).startswith(b"\x89PNG")
    svg = charts["ioi"].save(tmp_path / "c.svg").read_text()
    assert all(f">{node}<" in svg for node in circuits["ioi"].nodes)
    read = list(csv.DictReader(io.StringIO(csv_text(charts["ioi"]))))
    assert [float(r["weight"]) for r in read] == [r["weight"] for r in charts["ioi"].rows]
    assert chart_of(circuits["ioi"]).title == "Circuit"
    shown = bundle(circuits["ioi"])
    assert shown["image/svg+xml"].startswith("<svg") and "L1.H0" in shown["image/svg+xml"]


def test_places_do_not_overlap_and_crossings_go_down():
    rng = np.random.default_rng(0)
    level, width = np.repeat(np.arange(5), 8), rng.uniform(10, 40, 40)
    links = np.array([(i * 8 + a, i * 8 + 8 + b) for i in range(4) for a, b in rng.integers(0, 8, (10, 2))])
    start, enters = rng.uniform(0, 400, 40), np.zeros(len(links))
    x = place(level, width, start, links, enters, 400.0)
    for i in range(5):
        order = np.flatnonzero(level == i)[np.argsort(x[level == i])]
        gaps = x[order][1:] - x[order][:-1] - (width[order][1:] + width[order][:-1]) / 2
        assert gaps.min() > -1e-6
    # by hand: two links that cross, and the same two drawn straight
    pair = np.array([[0, 3], [1, 2]]), np.zeros(2)
    assert crossings(np.array([0.0, 9.0, 0.0, 9.0]), np.array([0, 0, 1, 1]), *pair) == 1
    assert crossings(np.array([0.0, 9.0, 9.0, 0.0]), np.array([0, 0, 1, 1]), *pair) == 0
    assert crossings(x, level, links, enters) < 0.7 * crossings(start, level, links, enters)
    still = place(
        np.array([FIXED, 0]), np.array([9.0, 9.0]), np.array([77.0, 5.0]), np.array([[0, 1]]), np.zeros(1), 50.0
    )
    assert still[0] == 77.0


def test_the_layout_stays_quick():
    import time

    whole = drawn_at_random(GraphShape(32, 32, 8), 5000)
    started = time.perf_counter()
    chart = circuit_graph(whole)
    assert time.perf_counter() - started < 5.0  # 0.5 s here
    assert len(chart.rows) == 150 and chart.body["height"] > 32 * HEIGHT
