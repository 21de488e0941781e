"""Emergent heads: the planted new head and no other, nothing between a checkpoint and itself, and births along the way."""

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.find.circuits.edge_attribution_ig import edge_attribution_ig
from conceptlab.find.heads.emergent_heads import emergent_heads, heads_in, strongest_edges
from conceptlab.measure.effects.paired_tasks import paired_task
from conceptlab.model import load_model
from conceptlab.plot import chart_of
from conceptlab.results import Scores, Site
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.post_trained import pairs_of, post_trained


def checkpoint(skill, seed=0, **options):
    world = post_trained(skill=skill, n_prompts=36, seed=seed, **options)
    return load_model(world.model, tokenizer=world.tokenizer), world


def states(found):
    return {
        name: {str(h).removesuffix(".z") for h in heads_in(found, name)}
        for name in ("emergent", "recruited", "lost", "kept")
    }


@pytest.mark.parametrize("seed", [60, 61])
def test_the_new_head_emerges_and_the_old_task_keeps_its_heads(seed, tmp_path):
    (base, world), (post, _) = checkpoint(0.0, seed), checkpoint(1.0, seed)
    old = emergent_heads([base, post], paired_task(base, pairs_of(world, "word")), seed=seed)
    assert states(old) == {"emergent": set(), "recruited": set(), "lost": set(), "kept": {"L0.H0", "L1.H0"}}
    task = paired_task(base, pairs_of(world, "place"))
    new = emergent_heads([base, post], task, known=heads_in(old, "kept"), seed=seed)
    assert states(new) == {"emergent": {"L1.H1"}, "recruited": {"L0.H0"}, "lost": set(), "kept": set()}
    assert abs(float(new["metric"][0])) < 0.1 < 5 < float(new["metric"][1])
    back = emergent_heads([post, base], task, seed=seed)
    assert states(back)["lost"] == {"L0.H0", "L1.H1"} and not states(back)["emergent"]
    new.save(tmp_path / "new")
    assert (Scores.load(tmp_path / "new")["state"] == new["state"]).all()
    chart = chart_of(new)
    assert chart is not None and len(chart.rows) == 8


@pytest.mark.parametrize("seed", [62, 63, 64])
def test_nothing_emerges_between_a_checkpoint_and_itself(seed):
    post, world = checkpoint(1.0, seed, data_seed=seed)
    _, other = checkpoint(1.0, seed, data_seed=seed + 100)
    for name in ("word", "place"):
        tasks = [paired_task(post, pairs_of(w, name)) for w in (world, other)]
        found = emergent_heads([post, post], tasks, seed=seed)
        assert not heads_in(found, "emergent") and not heads_in(found, "lost") and len(heads_in(found, "kept")) == 2
        assert (np.abs(found["score"].values) < 0.1).all() and (found["control"].values < 0.1).all()


def test_births_are_counted_where_they_happen():
    models = [checkpoint(skill)[0] for skill in (0.0, 0.02, 0.5, 1.0)]
    found = emergent_heads(models, paired_task(models[0], pairs_of(checkpoint(1.0)[1], "place")))
    assert found["active"].values.tolist() == [0, 0, 2, 2]
    assert found["births"].values.tolist() == [0, 0, 2, 0] and found["deaths"].values.tolist() == [0] * 4
    assert found["part"].shape == (4, 2, 4)


def test_the_strongest_edge_is_that_of_the_table():
    post, world = checkpoint(1.0)
    task = paired_task(post, pairs_of(world, "place"))
    circuit = edge_attribution_ig(post, task.clean, task.corrupted, task.metric, n_random=2)
    table, best = circuit.table, strongest_edges(circuit, (2, 4))
    for layer in range(2):
        for head in range(4):
            mine = table["weights"].values[table["source"].values == f"L{layer}.H{head}"]
            assert best[layer, head] == pytest.approx(np.abs(mine).max())


def test_bad_input_is_one_line():
    post, world = checkpoint(1.0)
    task = paired_task(post, pairs_of(world, "word"))
    other = ioi()
    third = load_model(other.model, tokenizer=other.tokenizer)
    for models, given, says in (
        ([post], {}, "1 checkpoints came with 1 tasks"),
        ([post, third], {}, "several shapes"),
        ([post, post], {"n_parts": 20}, "36 rows cannot be cut into 20 parts"),
    ):
        with pytest.raises(InputError, match=says):
            emergent_heads(models, task, **given)
    with pytest.raises(InputError, match="no state 'born'"):
        heads_in(emergent_heads([post, post], task, known=[Site.parse("L0.H0.z")]), "born")
