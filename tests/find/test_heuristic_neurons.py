"""Which neurons answer, and for which heuristic each stands: planted ones come back on seeds never seen, rote ones do not."""

import numpy as np
import pytest

from conceptlab.data.arithmetic import operand_grid
from conceptlab.errors import InputError, SiteError
from conceptlab.find.neurons.answer_neurons import answer_neurons, first_order
from conceptlab.find.neurons.heuristic_neurons import heuristic_neurons, neuron_maps
from conceptlab.model import load_model
from conceptlab.model.metric import logit_diff
from conceptlab.model.sweep.plain import plain_values
from conceptlab.results import Edit, Site
from conceptlab.worlds.heuristic_neurons import D_MLP, N
from conceptlab.worlds.heuristic_neurons import heuristic_neurons as heuristic_world

CELLS = operand_grid(N)
ALL = [Site("mlp_post", 1, tuple(range(D_MLP)))]


def loaded(world):
    return load_model(world.model, tokenizer=world.tokenizer)


def named(world, **options):
    found = heuristic_neurons(loaded(world), CELLS, world.answer_ids("clean"), ALL, **options).table
    return {f"L1.N{i}": str(name) for i, name in zip(found["index"].values, found["best"].values, strict=True)}, found


@pytest.mark.parametrize("seed", [11, 12])
def test_planted_heuristics_are_named_and_noise_is_not(seed):
    world = heuristic_world(seed=seed)
    names, found = named(world)
    wanted = {**world.truth["heuristics"], **world.truth["decoys"]}
    wanted |= {key: f"left = {a} and right = {b}" for key, (a, b) in world.truth["pairs"].items()}
    right = sum(names[key] == name for key, name in wanted.items())
    assert right / len(wanted) >= 0.95
    others = [name for key, name in names.items() if key not in wanted and name]
    assert len(others) <= 0.05 * (D_MLP - len(wanted))
    assert found["named_shuffled"].mean() <= 0.05
    here = found["kind"].values != ""
    assert (found["covers"].values.any(1) == here).all()
    assert (found["score"].values[here & (found["kind"].values != "exact pair")] > 0.5).all()


@pytest.mark.parametrize("seed", [11, 12])
def test_neurons_that_know_by_rote_stand_for_nothing(seed):
    world = heuristic_world(null=True, seed=seed)
    names, _ = named(world)
    assert sum(names[key] != "" for key in world.truth["important"]) <= 0.05 * len(world.truth["important"])


def test_a_neuron_that_fires_at_random_and_writes_a_range_is_not_taken_for_one():
    """Its activation times its write to the answer has the range of the write, whatever it fires for."""
    world = heuristic_world(null=True)
    rng, model = np.random.default_rng(0), world.model
    weight = model.get_parameter("transformer.h.1.mlp.c_proj.weight").data
    written = [int(name[4:]) for name in world.truth["important"][:20]]
    tokens = model.get_parameter("lm_head.weight")[3 : 3 + 19].detach()
    for neuron in written:
        weight[neuron] = 0.2 * tokens[int(rng.integers(0, 10)) :][:8].sum(0) / 5
    names, _ = named(world)
    assert sum(names[f"L1.N{n}"] != "" for n in written) <= 2


def test_a_neuron_that_always_fires_is_no_heuristic():
    world = heuristic_world()
    model = loaded(world)
    key, _ = next(iter(world.truth["heuristics"].items()))
    with_bias = world.model.get_parameter("transformer.h.1.mlp.c_fc.bias").data
    world.model.get_parameter("transformer.h.1.mlp.c_fc.weight").data[:, int(key[4:])] = 0
    with_bias[int(key[4:])] = 1.0
    found = heuristic_neurons(model, CELLS, world.answer_ids("clean"), [Site.parse(f"{key}.mlp_post")]).table
    assert found["best"].values[0] == "" and not found["covers"].values.any()


def test_maps_are_activations_and_direct_writes():
    world = heuristic_world()
    model, ids = loaded(world), world.answer_ids("clean")
    key = next(k for k, name in world.truth["heuristics"].items() if name == "result mod 5 = 2")
    fired, writes = neuron_maps(model, CELLS.prompts, ids, [(1, int(key[4:]))])
    acts = model.capture(CELLS.prompts, "mlp_post", layers=[1])["mlp_post"][:, 0, int(key[4:])].numpy()
    assert np.allclose(fired[0], acts)
    high, low = writes[0][CELLS.result % 5 == 2], writes[0][CELLS.result % 5 != 2]
    assert high.min() - low.max() == pytest.approx(5.0, abs=0.01)  # the unembedding's gain, and nothing else


@pytest.fixture(scope="module")
def pairs():
    order = np.random.default_rng(0).permutation(len(CELLS))
    other = CELLS.result != CELLS.result[order]
    ours, theirs = np.flatnonzero(other), order[other]
    ids = np.array(heuristic_world().answer_ids("clean"))
    texts = [CELLS.prompts[i] for i in ours], [CELLS.prompts[i] for i in theirs]
    return *texts, logit_diff(ids[ours].tolist(), ids[theirs].tolist())


def test_important_neurons_come_first_and_decoys_do_nothing(pairs):
    world = heuristic_world()
    found = answer_neurons(loaded(world), *pairs, layers=[1], n_exact=60).table
    score = {f"L1.N{i}": s for i, s in zip(found["index"].values, found["score"].values, strict=True)}
    important, decoys = set(world.truth["heuristics"]), set(world.truth["decoys"])
    assert important <= set(score)  # the first order loses none of them
    assert min(score[n] for n in important) > 1e-3
    assert max((abs(score[n]) for n in decoys & set(score)), default=0) < 1e-5


def test_the_first_order_is_the_derivative_of_exact_patches(pairs):
    clean, other, tokens = pairs[0][:12], pairs[1][:12], pairs[2].tokens[:12]
    metric = logit_diff(tokens[:, 0], tokens[:, 1])
    model = loaded(heuristic_world())
    first = first_order(model, clean, other, metric, [1])[0]
    step = (
        model.capture(other, "mlp_post", layers=[1])["mlp_post"]
        - model.capture(clean, "mlp_post", layers=[1])["mlp_post"]
    )
    for neuron in np.argsort(-np.abs(first))[:3]:
        edit = Edit(Site("mlp_post", 1, (int(neuron),)), "add", step[:, :, neuron], strength=0.01, positions="last")
        moved = plain_values(model, model.encode(clean), (edit,), metric) - plain_values(
            model, model.encode(clean), (), metric
        )
        assert moved.mean() / 0.01 == pytest.approx(first[neuron], rel=0.02)


def test_bad_input_is_one_clear_line(pairs):
    world = heuristic_world()
    model, ids = loaded(world), world.answer_ids("clean")
    with pytest.raises(InputError, match="0 neurons"):
        heuristic_neurons(model, CELLS, ids, [])
    with pytest.raises(InputError, match="3 answers"):
        heuristic_neurons(model, CELLS, ids[:3], ALL)
    with pytest.raises(InputError, match="named twice"):
        heuristic_neurons(model, CELLS, ids, [*ALL, Site("mlp_post", 1, (3,))])
    with pytest.raises(InputError, match="nothing to search"):
        answer_neurons(model, *pairs, n_exact=0)
    with pytest.raises(SiteError):
        heuristic_neurons(model, CELLS, ids, [Site("mlp_post", 7, (3,))])
