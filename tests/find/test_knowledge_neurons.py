"""Knowledge neurons: stored facts are found and templates are not, null twins have none, and recall scores tell a shortcut."""

import numpy as np
import pytest

from conceptlab.errors import InputError
from conceptlab.find.neurons.knowledge_neurons import Fact, knowledge_neurons, neurons_of
from conceptlab.measure.effects.recall_scores import recall_scores
from conceptlab.model import load_model
from conceptlab.worlds.stored_hops import FIRST, stored_hops


def world_of(**options):
    world = stored_hops(**options)
    facts = [
        Fact(key.split()[1], world.prompts[key], world.answers[key][0])
        for key in world.prompts
        if key.startswith("first")
    ]
    return world, load_model(world.model, tokenizer=world.tokenizer), facts


@pytest.fixture(scope="module")
def planted():
    world, model, facts = world_of()
    return world, model, facts, knowledge_neurons(model, facts)


def names(sites):
    return {f"L{s.layer}.N{s.units[0]}" for s in sites}


@pytest.mark.parametrize("seed", [1, 2])
def test_stored_facts_are_found_and_nothing_is_where_nothing_is_stored(seed):
    world, model, facts = world_of(seed=seed)
    found = knowledge_neurons(model, facts)
    for fact in facts:
        assert names(neurons_of(found, fact.name)) == set(world.truth["first"][fact.name])
    _, quiet, same = world_of(seed=seed, null=True)
    none = knowledge_neurons(quiet, same)
    assert none["member"].values.sum() <= 3 and "no neuron passes" in none.provenance.warnings[0]


def test_templates_pass_every_prompt_and_are_left_out(planted):
    world, _, facts, found = planted
    layer, neuron = (int(part[1:]) for part in world.truth["template"][0].split("."))
    at = {"layer": layer, "neuron": neuron}
    assert float(found["passes"].sel(at).mean()) > 0.5 and not bool(found["member"].sel(at).any())
    loose = knowledge_neurons(planted[1], facts, shared=1.0)
    assert bool(loose["member"].sel(at).any())


def test_the_plain_baseline_takes_neurons_that_write_nothing(planted):
    world, _, facts, found = planted
    best = [names(neurons_of(found, fact.name, most=5, by="activation")) for fact in facts]
    assert not any(mine & set(world.truth["first"][fact.name]) for mine, fact in zip(best, facts, strict=True))


def test_all_layers_cost_a_few_forwards(planted):
    _, model, facts, found = planted
    n = sum(len(fact.prompts) for fact in facts)
    assert found.provenance.passes <= 20 * n


def test_recall_is_lower_where_a_shortcut_answers(planted):
    world, model, facts, found = planted
    sets = {fact.name: neurons_of(found, fact.name) for fact in facts}
    direct = {fact.name: fact.prompts for fact in facts}
    score = {
        mode: recall_scores(model, list(world.prompts[mode]), [p.split()[2] for p in world.prompts[mode]], sets, direct)
        for mode in ("both", "guess")
    }
    assert float(score["both"]["score"].min()) > 0.9 > 0.1 > float(score["guess"]["score"].max())
    gap = abs(float(score["both"]["control"].mean()) - float(score["guess"]["control"].mean()))
    assert gap < 0.2
    # positions after `until` do not count
    early = recall_scores(model, list(world.prompts["both"][:4]), [facts[0].name] * 4, sets, direct, until=[3] * 4)
    assert float(np.abs(early["score"].values).max()) < 0.1


def test_wrong_facts_are_one_line(planted):
    _, model, facts, found = planted
    with pytest.raises(InputError, match="1 facts leave no others"):
        knowledge_neurons(model, facts[:1])
    with pytest.raises(InputError, match="has 2 wordings; give at least 3"):
        knowledge_neurons(model, [Fact("a", (f"now so person1 so {FIRST[0]}",) * 2, "town1"), facts[0]])
    with pytest.raises(InputError, match="has no neurons or no direct questions"):
        recall_scores(model, ["so so person1 so both"], ["nobody"], {}, {})
