"""Exact edge patching: planted edges have their stated effect and are found, decoys and null twins stay silent."""

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.find.circuits.exact_edges import exact_edges
from conceptlab.model.edge_run import edge_run
from conceptlab.results import Circuit, Provenance

from .planted_runs import model_of, prepared, true_edges, world


def found_edges(circuit, least=0.01):
    kept = (circuit.q <= 0.05) & (np.abs(circuit.weights) >= least)
    return {edge for edge, k in zip(circuit.edge_names(), kept, strict=True) if k}


@pytest.mark.parametrize("name", ["induction", "soft"])
@pytest.mark.parametrize("corruption", ["key", "query"])
def test_the_induction_edges_are_found_and_no_other(name, corruption):
    run, metric = prepared(name, corruption)
    circuit = exact_edges(run, metric)
    assert len(circuit) == run.shape.n_edges
    effect = dict(zip(circuit.edge_names(), circuit.weights, strict=True))
    for edge in true_edges(name, corruption):
        assert effect[edge] == pytest.approx(1.0, abs=0.02)
    assert found_edges(circuit) == true_edges(name, corruption)
    assert all(abs(effect[edge]) < 0.01 for edge in effect if edge not in true_edges(name, corruption))
    hits = [i for i, edge in enumerate(circuit.edge_names()) if edge in true_edges(name, corruption)]
    assert (np.abs(circuit.control[hits]) < 0.2).all()  # as long a vector in a random direction does little
    assert (circuit.low[hits] <= circuit.weights[hits]).all() and (circuit.weights[hits] <= circuit.high[hits]).all()


def test_a_decoy_that_attends_rightly_has_no_edge():
    run, metric = prepared("induction")
    circuit = exact_edges(run, metric)
    decoy = [i for i, (a, b) in enumerate(circuit.edge_names()) if "L0.H1" in (a, b[:5]) or "L0.H2" in (a, b[:5])]
    assert len(decoy) > 20 and (np.abs(circuit.weights[decoy]) < 1e-6).all() and (circuit.q[decoy] > 0.9).all()


def test_the_indirect_object_paths_carry_their_stated_effects():
    run, metric = prepared("ioi", "swapped")
    stated = world("ioi").truth["edges"]
    edges = Circuit.from_edges(run.shape, [edge[:2] for edge in stated], Provenance("t", 1, 0))
    circuit = exact_edges(run, metric, edges)
    np.testing.assert_allclose(circuit.weights, [edge[2] for edge in stated], atol=0.01)
    # what L1.H0 does in all is what its edges into the movers' queries do together
    effect = dict(zip(circuit.edge_names(), circuit.weights, strict=True))
    assert effect["L1.H0", "L2.H0.q"] + effect["L1.H0", "L2.H1.q"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("gate", ["or", "and"])
def test_one_direction_shows_what_the_other_hides(gate):
    run, metric = prepared(gate)
    branches = [edge for edge in true_edges(gate) if edge[0] == "L0.H0" or edge[1] == "L1.mlp"]
    given = Circuit.from_edges(run.shape, branches, Provenance("t", 1, 0))
    noised, denoised = (exact_edges(run, metric, given, direction=d).weights for d in ("noising", "denoising"))
    hidden, shown = (noised, denoised) if gate == "or" else (denoised, noised)
    assert (np.abs(hidden) < 0.01).all() and (np.abs(shown - 1) < 0.01).all()


def test_null_twins_have_edges_at_the_stated_rate():
    found = []
    for name, corruption in (("induction", "key"), ("ioi", "swapped")):
        for seed in (31, 32):
            circuit = exact_edges(*prepared(name, corruption, null=True, seed=seed))
            found.append(bool(found_edges(circuit)))
            assert found[-1] <= (
                not circuit.provenance.warnings
            )  # where it says that there is no behaviour it finds nothing
    assert sum(found) <= 1  # each at 5 %: two of four would come in 1 of 70 such tests


def test_clean_rows_as_corrupted_ones_are_no_number():
    prompts = world("induction").prompts["clean"]
    run = edge_run(model_of("induction"), prompts, prompts)
    circuit = exact_edges(run, prepared("induction")[1])
    assert np.isnan(circuit.weights).all() and (circuit.p == 1).all()
    assert "score alike" in circuit.provenance.warnings[0]
    with pytest.raises(InputError, match="direction='up' is not known"):
        exact_edges(run, prepared("induction")[1], direction="up")
