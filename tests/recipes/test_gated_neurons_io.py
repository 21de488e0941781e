"""gated-neurons-io: holds on planted classes and on a trained model, not on null twins, and takes a user's model and facts."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from conceptlab.errors import InputError, SiteError
from conceptlab.model import load_model
from conceptlab.recipes import Setup
from conceptlab.recipes.gated_neurons_io import by_chance, measured, on_world, reproduce
from conceptlab.worlds.gated_classes import gated_classes
from conceptlab.worlds.trained_facts import fact_queries, facts_tokenizer, people, trained_facts
from tests.recipes.findings import quick_form


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    trained = trained_facts(seed=0, cache=tmp_path_factory.mktemp("cache"))
    return load_model(trained.model, tokenizer=facts_tokenizer())


def test_the_quick_form_says_what_it_found_beside_its_controls(tmp_path):
    done = quick_form(reproduce, seed=2, cache=tmp_path)
    found = {f.name: f for f in done.findings}
    assert done.holds and done.provenance.causal == "ablation"
    lost = next(f for name, f in found.items() if name.endswith("enrich most"))
    assert lost.value >= 5 * lost.control and lost.low > lost.control
    assert next(f for name, f in found.items() if name.endswith("deplete most")).value <= 0.2 * lost.value


@pytest.mark.parametrize("seed", [1, 2])
def test_worlds_hold_and_null_twins_do_not(seed):
    assert on_world(gated_classes(seed=seed), seed=seed).holds
    quiet = on_world(gated_classes(seed=seed, null=True), seed=seed)
    assert quiet.findings[0].value == 0 and not quiet.holds and quiet.findings[1].holds
    assert by_chance(gated_classes(seed=seed, null=True), seed=seed).holds


def test_a_model_that_knows_nothing_loses_nothing(facts):
    torch.manual_seed(1)
    blank = load_model(type(facts.module)(facts.module.config).eval(), tokenizer=facts_tokenizer())
    queries = [q for q, kind in zip(fact_queries(0, per_person=1), people(0).kind, strict=True) if kind == 0]
    done = measured(blank, queries, quick=True, seed=0)
    assert next(f for f in done.findings if f.name.endswith("enrich most")).holds is False


def test_a_users_model_and_file(facts, tmp_path):
    path = tmp_path / "facts.csv"
    rows = [q for q, kind in zip(fact_queries(0, per_person=1), people(0).kind, strict=True) if kind == 0]
    lines = ["prompt,subject,answer,associated", *(f"{q.prompt},{q.subject},{q.answer},-" for q in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    done = reproduce(Setup(quick=True, model=facts, data=path))
    assert done.provenance.n == len(rows) and done.results["ablated"].data.sizes["set"] == 2
    alone = reproduce(Setup(quick=True, model=facts))
    assert len(alone.findings) == len(done.findings) - 2 and alone.provenance.causal == "none"


def test_what_cannot_be_asked_is_one_line(tmp_path):
    with pytest.raises(InputError, match="needs --model"):
        reproduce(Setup(quick=True, data=tmp_path / "facts.csv"))
    config = GPT2Config(n_embd=16, n_head=2, n_layer=1, vocab_size=60, bos_token_id=0, eos_token_id=0)
    with pytest.raises(SiteError, match="no gated MLP"):
        reproduce(Setup(quick=True, model=load_model(GPT2LMHeadModel(config).eval())))
