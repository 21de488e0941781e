"""Circuits: the edge list of every kind of block, what is kept and dropped on graphs drawn by hand, files, and wrong input."""

import json
import time

import numpy as np
import pytest

from conceptlab.errors import InputError, ResultError, SiteError
from conceptlab.results import Circuit, GraphShape, Provenance, all_edges
from conceptlab.worlds.ioi import ioi

PROVENANCE = Provenance("by hand", n=8, seed=3, settings={"steps": 5}, warnings=("one",))
SMALL = GraphShape(2, 2)
# a chain to the logits, a stub that nothing feeds, one that leads nowhere; weights out of order
HAND = [
    ("embed", "L0.H0.v", 0.5),
    ("L0.H0", "L0.mlp", -3.0),
    ("L0.mlp", "L1.H1.q", 1.0),
    ("L1.H1", "logits", 2.0),
    ("L0.H1", "L1.H1.k", 0.1),
    ("L0.H0", "L1.H0.v", -0.2),
]


def circuit(edges=HAND, shape=SMALL, **more):
    return Circuit.from_edges(shape, edges, PROVENANCE, **more)


def names(c):
    return set(c.edge_names())


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("bare", [(), (1,), (0, 1, 2)])
def test_every_edge_of_the_model_is_there_once(kv, parallel, bare):
    n_layers, n_heads = 3, 4
    shape = GraphShape(n_layers, n_heads, kv, parallel, bare)
    written, edges = ["embed"], set()  # the model, block by block, in names
    for layer in range(n_layers):
        heads = [f"L{layer}.H{h}" for h in range(n_heads)]
        asked = [f"{h}.q" for h in heads] + [f"L{layer}.H{g}.{kind}" for g in range(kv) for kind in "kv"]
        edges |= {(a, b) for a in written for b in asked}
        if layer not in bare:
            edges |= {(a, f"L{layer}.mlp") for a in (written if parallel else [*written, *heads])}
        written += heads + ([] if layer in bare else [f"L{layer}.mlp"])
    edges |= {(a, "logits") for a in written}
    source, target = all_edges(shape)
    whole = Circuit(shape, source, target, np.ones(len(source)), PROVENANCE)
    assert names(whole) == edges and len(whole) == shape.n_edges == len(edges)
    assert len(whole.pruned()) == len(whole)
    assert set(whole.nodes) == {*written, "logits"}
    numbers = whole.edge_numbers
    np.testing.assert_array_equal(numbers, np.arange(len(whole)))
    np.testing.assert_array_equal(np.stack(shape.edges_of(numbers), 1), whole.edges)


@pytest.mark.parametrize(("n_layers", "heads", "kv"), [(12, 12, 12), (32, 32, 32), (32, 32, 8)])
def test_the_number_of_edges_follows_the_formula_and_takes_no_time(n_layers, heads, kv):
    before = sum(1 + layer * (heads + 1) for layer in range(n_layers))
    formula = before * (heads + 2 * kv + 1) + n_layers * heads + 1 + n_layers * (heads + 1)
    started = time.perf_counter()
    shape = GraphShape(n_layers, heads, kv)
    source, target = all_edges(shape)
    seconds = time.perf_counter() - started
    assert len(source) == shape.n_edges == formula
    assert source.dtype == target.dtype == np.int32
    assert len(shape.senders) == 1 + n_layers * (heads + 1)
    assert seconds < 1.0  # 0.07 s here for 1.6 million
    if (n_layers, kv) == (12, 12):
        assert formula == 32491


def test_heads_that_share_a_key_and_value():
    shape = GraphShape(2, 4, 2)
    with pytest.raises(SiteError, match=r"'L0.H2.k' is no receiver .* \.k and \.v up to L1.H1"):
        shape.receiver("L0.H2.k")
    edges = [("embed", "L0.H1.k"), ("L0.H3", "logits")]
    fed = Circuit.from_edges(shape, edges, PROVENANCE)
    assert len(fed.pruned()) == 2  # key head 1 serves heads 2 and 3
    assert fed.nodes == ("embed", "L0.H3", "logits")
    assert not len(Circuit.from_edges(shape, [("embed", "L0.H0.k"), ("L0.H3", "logits")], PROVENANCE).pruned())
    unused = Circuit.from_edges(shape, edges[:1], PROVENANCE)
    assert unused.nodes == ("embed", "L0.H2", "L0.H3")


def test_what_leads_nowhere_is_pruned():
    kept = circuit().pruned()
    assert names(kept) == {(a, b) for a, b, _ in HAND[:4]}
    assert kept.nodes == ("embed", "L0.H0", "L0.mlp", "L1.H1", "logits")
    assert [str(site) for site in kept.heads()] == ["L0.H0.z", "L1.H1.z"]
    assert not len(kept.without([("L0.mlp", "L1.H1.q")]).pruned())
    assert not len(circuit([]).pruned()) and circuit([]).nodes == ()


def test_the_strongest_edges():
    c = circuit(control=np.arange(6.0))
    assert c.top(3).weights.tolist() == [-3.0, 2.0, 1.0]
    assert c.top(3).control.tolist() == [1.0, 3.0, 2.0]
    assert c.top(2, by="signed").weights.tolist() == [2.0, 1.0]
    assert len(c.top(99)) == 6 and len(c.top(0)) == 0
    broken = circuit([*HAND[:2], ("L0.mlp", "L1.H1.q", float("nan"))])
    assert names(broken.top(3)) == {(a, b) for a, b, _ in HAND[:2]}


def test_edges_are_taken_away_by_name_or_by_circuit():
    c = circuit()
    assert names(c.without([("L1.H1", "logits")])) == names(c) - {("L1.H1", "logits")}
    assert names(c.without(c.pruned())) == {("L0.H1", "L1.H1.k"), ("L0.H0", "L1.H0.v")}
    assert c.without([]) == c


def test_the_planted_circuit_of_the_ioi_world():
    edges = ioi(n_prompts=2).truth["edges"]
    c = Circuit.from_edges(GraphShape(3, 4), edges, PROVENANCE)
    assert c.weights.tolist() == [e[2] for e in edges]
    assert set(c.nodes) == {"L1.H0", "L2.H0", "L2.H1", "logits"}


def test_a_circuit_comes_back_equal_from_its_folder(tmp_path):
    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=6) for name in ("low", "high", "control", "p", "q")}
    exact = np.array([1.0, np.nan, 2.0, np.nan, 0.0, 1.0])
    c = circuit(**columns, exact=exact, metric="logit_diff", shape=GraphShape(3, 2, 1, True, (2,)), edges=[
        ("embed", "L0.H0.k", 1.0), ("embed", "L0.H1.q", 1.5), ("L0.H0", "L1.mlp", 1.0), ("L0.mlp", "L1.H0.v", 1.0),
        ("L1.mlp", "L2.H1.q", -2.0), ("L2.H1", "logits", 0.25)])  # fmt: skip
    c.save(tmp_path / "c")
    back = Circuit.load(tmp_path / "c")
    assert back == c and back.weights.dtype == np.float64 and back.source.dtype == np.int32
    assert Circuit.load(tmp_path / "c").top(2) == c.top(2)
    assert back != c.top(6) and back != c.without([("embed", "L0.H0.k")])
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["result.json", "result.safetensors"]
    with pytest.raises(ValueError, match="read-only"):
        back.weights[0] = 1.0
    circuit([]).save(tmp_path / "none")
    assert Circuit.load(tmp_path / "none") == circuit([])


def test_it_says_what_it_is():
    assert repr(circuit()).startswith("Circuit of 6 of ") and "L0.H0 -> L0.mlp (-3)" in repr(circuit())
    table = circuit().table
    assert table["source"].values[1] == "L0.H0" and float(table["weights"][1]) == -3.0
    assert circuit([]).table.sizes["edge"] == 0


@pytest.mark.parametrize(
    ("edges", "line"),
    [
        ([("L9.H0", "logits")], r"'L9.H0' is no sender of this graph; senders are embed, L0.H0 … L1.H1"),
        ([("logits", "L0.mlp")], "'logits' is no sender"),
        ([("embed", "L0.H0")], "'L0.H0' is no receiver"),
        ([("embed", "L0.H2.q")], "'L0.H2.q' is no receiver"),
        ([("L0.H0", "L0.H1.q")], "no edge L0.H0 -> L0.H1.q: what L0.H1.q reads is complete"),
        ([("L0.mlp", "L0.mlp")], "no edge L0.mlp -> L0.mlp"),
        ([("L1.mlp", "L0.H0.k")], "no edge L1.mlp -> L0.H0.k"),
        ([("embed", "logits"), ("embed", "logits", 2)], "embed -> logits is given twice"),
    ],
)
def test_edges_that_cannot_be_are_one_clear_line(edges, line):
    with pytest.raises(InputError, match=line) as caught:
        circuit(edges)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_heads_feed_the_mlp_of_their_layer_only_in_sequential_blocks():
    circuit([("L1.H0", "L1.mlp")])
    with pytest.raises(ResultError, match="no edge L1.H0 -> L1.mlp"):
        circuit([("L1.H0", "L1.mlp")], GraphShape(2, 2, parallel=True))
    with pytest.raises(SiteError, match="'L1.mlp' is no receiver"):
        circuit([("L1.H0", "L1.mlp")], GraphShape(2, 2, attention_only=(1,)))


def test_other_wrong_input_is_one_clear_line():
    with pytest.raises(ResultError, match=r"control has shape \(2,\); a circuit of 6 edges"):
        circuit(control=np.zeros(2))
    with pytest.raises(ResultError, match="joins sender 99 to receiver 0"):
        Circuit(SMALL, np.array([99]), np.array([0]), np.ones(1), PROVENANCE)
    with pytest.raises(ResultError, match="no edge embed -> logits, so it cannot be taken away"):
        circuit().without([("embed", "logits")])
    with pytest.raises(ResultError, match="different graphs"):
        circuit().without(circuit([], GraphShape(3, 2)))
    with pytest.raises(ResultError, match='by="magnitude"'):
        circuit().top(3, by="size")
    for shape in ((0, 2), (2, 0), (2, 4, 3), (2, 2, -1)):
        with pytest.raises(ResultError, match="no graph of"):
            GraphShape(*shape)
    with pytest.raises(ResultError, match="layer 2 cannot be attention-only"):
        GraphShape(2, 2, attention_only=(2,))


def change(folder, **fields):
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**record, **fields}))


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path):
    def saved(name):
        circuit().save(tmp_path / name)
        return tmp_path / name

    change(saved("newer"), schema=99)
    change(saved("other"), kind="edit")
    change(saved("shape"), shape={"n_layers": 1, "n_heads": 2})
    change(saved("field"), shape={"n_layers": 2, "n_heads": 2, "n_towers": 1})
    change(saved("words"), provenance={})
    tensors = saved("cut") / "result.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    (saved("gone") / "result.safetensors").unlink()
    lines = {
        "newer": "newer conceptlab .schema 99.", "other": "holds a edit, not a circuit", "shape": "joins sender",
        "field": "n_towers", "words": "method", "cut": "no readable circuit", "gone": "no readable circuit",
        "nothing": "no readable circuit",
    }  # fmt: skip
    for name, line in lines.items():
        with pytest.raises(ResultError, match=line) as caught:
            Circuit.load(tmp_path / name)
        assert "\n" not in str(caught.value)
