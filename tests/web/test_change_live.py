"""What the patching, circuit and unit panels show is what the methods give when they are called directly."""

from urllib.parse import urlencode

import numpy as np
import pytest
import torch

from conceptlab import Edit
from conceptlab.errors import InputError
from conceptlab.find.neurons.vocabulary_neurons import vocabulary_neurons
from conceptlab.measure.patching.activation_patching import activation_patching
from conceptlab.model.ov_circuit import ov_answers
from conceptlab.results import Circuit, Provenance, Site
from conceptlab.results.graph import GraphShape
from conceptlab.web.live.circuit import circuit_card
from conceptlab.web.live.pair_tasks import PairAsked, pair_metric, pair_tasks
from conceptlab.web.live.patching_map import Cell, MapAsked, downstream, patching_map
from conceptlab.web.live.unit_texts import unit_texts
from conceptlab.web.live.unit_weights import Unit, unit_weights
from conceptlab.web.pages.unit_records import place_of, share_in
from tests.web.prompt_models import fetch, finish, random_model, word_tokenizer

TASK = "capitals of the embedded world"


@pytest.fixture(scope="module")
def model(desk):
    return desk.live.model


# -- patching ----------------------------------------------------------------------------------------------------------
def test_tasks_have_rows_of_one_length_that_the_model_can_score(model) -> None:
    tasks = pair_tasks(model)
    assert TASK in tasks
    for pairs in tasks.values():
        assert len({*model.encode(pairs.clean).lengths, *model.encode(pairs.corrupted).lengths}) == 1
        values = pair_metric(model, pairs).of(
            model.logits(pairs.clean)[:, pair_metric(model, pairs).tokens][0], torch.arange(1)
        )
        assert torch.isfinite(values).all()
    assert pair_tasks(random_model(word_tokenizer(20))) == {}, "nothing is offered that the tokenizer does not know"


@pytest.mark.parametrize(("place", "site", "by"), [("mlp", "mlp_out", "position"), ("heads", "z", "head")])
def test_the_map_is_that_of_the_method(model, place, site, by) -> None:
    pairs = pair_tasks(model)[TASK]
    found = finish(patching_map(model, MapAsked(PairAsked(task=TASK), place, "noising")))
    metric = pair_metric(model, pairs)
    whole = activation_patching(model, pairs.clean, pairs.corrupted, metric, site=site, by=by, direction="noising")
    np.testing.assert_allclose(np.array(found["score"]), whole["score"].values, atol=1e-5)
    np.testing.assert_allclose(np.array(found["low"]), whole["low"].values, atol=1e-5)
    one = activation_patching(
        model, pairs.clean, pairs.corrupted, metric, site=site, by=by, layers=[3], direction="noising"
    )
    np.testing.assert_allclose(np.array(found["control"][3]), np.ravel(one["control"].values), atol=1e-5)
    np.testing.assert_allclose(np.array(found["p"][3]), np.ravel(one["p"].values))
    assert found["n"] == len(pairs.clean)
    assert np.array(found["q"]).shape == whole["q"].shape


def test_downstream_is_the_patched_run(model) -> None:
    asked = MapAsked(
        PairAsked("The capital of Norvia is", "The capital of Velmar is", "Astel", "Delphor"), "stream", "denoising"
    )
    found = finish(downstream(model, asked, Cell(2, 4)))
    clean, corrupted = (
        model.capture(t, ["resid_pre", "resid_post"], positions="all")
        for t in asked.pair.pairs(model).clean + asked.pair.pairs(model).corrupted
    )
    edit = Edit(Site("resid_pre", 2), "set", clean.at("resid_pre", 2)[4:5], positions=(4,))
    with model.edited(edit):
        patched = model.capture(asked.pair.corrupted, ["resid_post", "logits"], positions="all")
    change = (patched["resid_post"] - corrupted["resid_post"]).norm(dim=-1).T
    whole = (clean["resid_post"] - corrupted["resid_post"]).norm(dim=-1).T
    moved = np.array(found["moved"], dtype=float)
    here = np.isfinite(moved)
    assert not here[:, :4].any(), "before the word that differs nothing differs"
    np.testing.assert_allclose(moved[here], (change / whole).numpy()[here], rtol=1e-3, atol=1e-5)
    assert (moved[:2, 4:] < 1e-5).all()
    assert moved[2, 4] == pytest.approx(1.0, abs=1e-4), "the patched place has gone all the way"
    run = next(r for r in found["predicted"] if r["run"] == "patched")
    probs = patched["logits"][-1].softmax(-1)
    assert run["top"][0]["prob"] == pytest.approx(float(probs.max()), abs=1e-5)
    right, wrong = pair_metric(model, asked.pair.pairs(model)).tokens[0].tolist()
    assert run["metric"] == pytest.approx(float(patched["logits"][-1, right] - patched["logits"][-1, wrong]), abs=1e-3)
    head = finish(downstream(model, MapAsked(asked.pair, "heads", "denoising"), Cell(2, 4)))
    assert max(v for row in head["moved"][:2] for v in row if v is not None) < 1e-5


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (("The capital of Norvia is", "The first town of Velmar is", "Astel", "Delphor"), "same number"),
        (("The capital of Norvia is", "The capital of Velmar is", "Astel", "Astel"), "two different words"),
        (("The capital of Norvia is", "The capital of Norvia is", "Astel", "Delphor"), "same text"),
        (("The capital of Norvia is", "The capital of Velmar is", "Astel", ""), "give a clean and a corrupted prompt"),
        (("The capital of Norvia is", "The capital of Velmar is", "!!!", "???"), "share their first token|no word"),
    ],
)
def test_wrong_pairs_are_said_in_one_line(model, server, pair, said) -> None:
    with pytest.raises(InputError, match=said):
        finish(patching_map(model, MapAsked(PairAsked(*pair))))
    query = urlencode(dict(zip(("prompt", "corrupted", "answer", "distractor"), pair, strict=True)))
    answer = fetch(f"{server.url}/panel/patching/map?{query}&as=json")
    assert answer.status == 409
    assert len(answer.json()["job"]["error"].splitlines()) == 1


# -- circuits ----------------------------------------------------------------------------------------------------------
def small_circuit() -> Circuit:
    edges = [
        ("embed", "L0.H1.q", 0.5),
        ("L0.H1", "L1.H0.k", -0.25),
        ("L1.H0", "L1.mlp", 0.1),
        ("L1.mlp", "logits", 0.9),
    ]
    return Circuit.from_edges(
        GraphShape(2, 2),
        edges,
        Provenance("by hand", 8, 0),
        metric="logit_diff",
        control=np.array([0.01, -0.02, 0.0, 0.03]),
    )


def test_a_circuit_is_drawn_with_its_own_numbers() -> None:
    circuit = small_circuit()
    card = circuit_card(
        circuit,
        "one",
        "one",
        {"edges": [{"source": "L1.mlp", "target": "logits", "chosen": 0.5, "direction": "noising"}], "notes": ["n"]},
    )
    assert [(e["source"], e["target"], e["weights"]) for e in card["edges"]] == [
        (a, b, w) for (a, b), w in zip(circuit.top(4).edge_names(), circuit.top(4).weights, strict=True)
    ]
    assert card["edges"][0]["chosen"] == 0.5
    assert card["edges"][1]["chosen"] is None
    assert card["null"] == pytest.approx(0.03)
    assert {n["name"] for n in card["nodes"]} == {"embed", "L0.H1", "L1.H0", "L1.mlp", "logits"}
    for node in card["nodes"]:
        assert 0 <= node["y"] <= card["height"]
    heads = {n["name"]: n["unit"] for n in card["nodes"] if n["kind"] == "head"}
    assert heads == {"L0.H1": "/unit?layer=0&head=1", "L1.H0": "/unit?layer=1&head=0"}
    empty = circuit_card(circuit.select(np.array([], dtype=int)), "none", "none", {})
    assert empty["edges"] == []


def test_a_node_has_its_share_of_a_circuit() -> None:
    share = share_in(small_circuit(), "L1.H0")
    assert share["edges"] == 2
    assert share["share"] == pytest.approx((0.25 + 0.1) / 1.75)
    assert share["average"] == pytest.approx((0.75 + 0.35 + 1.0) / 3 / 1.75)
    assert share_in(small_circuit(), "L0.H0")["share"] == 0


def test_an_unknown_circuit_is_a_404(server) -> None:
    answer = fetch(f"{server.url}/circuit?circuit=../../etc/passwd")
    assert answer.status == 404
    assert b"there is no circuit" in answer.content


# -- units -------------------------------------------------------------------------------------------------------------
def test_a_neurons_tokens_are_those_of_the_detector(model) -> None:
    found = finish(unit_weights(model, Unit("neuron", 3, 7)))
    table = vocabulary_neurons(model, k=10).table
    row = int(np.flatnonzero((table["layer"].values == 3) & (table["index"].values == 7))[0])
    ids, logits = table["ids"].values[row], table["logits"].values[row]
    assert [t["id"] for t in found["unit"]["promoted"]] == ids[0].tolist()
    assert [t["id"] for t in found["unit"]["suppressed"]] == ids[1].tolist()
    np.testing.assert_allclose([t["logit"] for t in found["unit"]["promoted"]], logits[0], rtol=1e-4)
    assert found["unit"]["cosine"] == pytest.approx(float(table["score"].values[row]), rel=1e-4)
    assert found["p"] == pytest.approx(float(table["p"].values[row]), rel=1e-3)
    assert found["random_cosine"] == pytest.approx(float(table["control"].values[row]))
    assert found["other_index"] != 7


def test_a_heads_pairs_are_those_of_its_circuit(model) -> None:
    found = finish(unit_weights(model, Unit("head", 2, 1)))
    special = set(model.tokenizer.all_special_ids)
    from conceptlab.model.vocabulary import learned_vocabulary

    words = [i for i in learned_vocabulary(model).ids.tolist() if i not in special]
    tokens = words[:: -(-len(words) // 512)]
    said = ov_answers(model, tokens, [range(len(tokens))])[2, 1]
    assert found["unit"]["copying"] == pytest.approx(float((said == torch.arange(len(tokens))).float().mean()))
    answer = {tokens[i]: tokens[j] for i, j in enumerate(said.tolist())}
    spelt = {model.tokenizer.decode([a]): model.tokenizer.decode([b]) for a, b in answer.items()}
    assert all(spelt[pair["from"]] == pair["to"] for pair in found["unit"]["ov"])
    plural = sum(pair["to"] in ("are", "were") for pair in found["unit"]["ov"])
    control = sum(pair["to"] in ("are", "were") for pair in found["other"]["ov"])
    assert plural >= 8, "the head that the atlas names first for the subject's number says the plural verb"
    assert control < plural


def test_the_most_active_texts_are_those_of_a_plain_capture(model, desk) -> None:
    concept = next(iter(desk.concept_set))
    rows = [
        (text, str(label), concept.name) for text, label in zip(concept.texts[:90], concept.labels[:90], strict=True)
    ]
    for unit, site in ((Unit("neuron", 4, 5), "mlp_post"), (Unit("head", 1, 2), "z")):
        found = finish(unit_texts(model, unit, rows))
        peaks = []
        for text, _, _ in rows:
            values = model.capture(text, site, layers=[unit.layer], positions="all").at(site, unit.layer)[:, unit.index]
            peaks.append(float((values.norm(dim=-1) if unit.kind == "head" else values).max()))
        best = np.sort(peaks)[::-1][:12]
        np.testing.assert_allclose([e["max"] for e in found["examples"]], best, rtol=1e-4, atol=1e-5)
        assert found["max"] == pytest.approx(best[0], rel=1e-4)
        assert found["n"] == 90


def test_what_was_said_is_what_the_atlas_holds(server, desk) -> None:
    shelf = desk.atlas()
    twin = fetch(f"{server.url}/unit?layer=2&head=1&as=json").json()
    by_name = {row["name"]: row for row in twin["said"]["rows"] if row["source"] == "atlas"}
    assert len(by_name) == len(shelf.concepts)
    for id, entry in shelf.concepts.items():
        table = shelf.concept(id).heads.table
        row = int(np.flatnonzero((table["layer"].values == 2) & (table["index"].values == 1))[0])
        said = by_name[entry.name]
        for name in ("score", "control", "p", "q"):
            assert said[name] == float(table[name].values[row])
        assert said["rank"] == 1 + int((table["score"].values > said["score"]).sum())
    assert place_of(shelf.concept(next(iter(shelf.concepts))).heads, Unit("neuron", 0, 0)) is None


def test_units_are_walked_through_and_those_that_are_not_there_are_a_404(server) -> None:
    links = fetch(f"{server.url}/unit?layer=0&head=7&as=json").json()["links"]
    assert links == {
        "previous": "/unit?layer=0&head=6",
        "next": "/unit?layer=1&head=0",
        "below": "",
        "above": "/unit?layer=1&head=7",
    }
    for query, said in (
        ("layer=8&head=0", "no layer 8"),
        ("layer=0&head=8", "no head 8"),
        ("layer=0&neuron=344", "no neuron 344"),
    ):
        answer = fetch(f"{server.url}/unit?{query}")
        assert answer.status == 404
        assert said in answer.content.decode()
    assert fetch(f"{server.url}/unit?layer=x&head=0").status == 400
    assert fetch(f"{server.url}/unit").status == 200
