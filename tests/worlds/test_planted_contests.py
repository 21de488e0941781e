"""Facts against copies, analogies, stories and an ontology: their stated truths, measured with plain hooks."""

from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.worlds.analogy import RELATIONS, analogy
from conceptlab.worlds.fact_and_copy import ATTENTION, fact_and_copy
from conceptlab.worlds.ontology import ontology
from conceptlab.worlds.story_roles import VERBS, story_roles

from .plain_hooks import accuracy, all_heads, last_logits, out_hooks, patched_head, patterns, pre_hooks, stream

MAKERS = {"fact": fact_and_copy, "analogy": analogy, "stories": story_roles, "ontology": ontology}


@cache
def world(name, seed=5, **options):
    return MAKERS[name](seed=seed, **options)


def picked(planted, family, answers):
    """Logits [row] of the answers of one family after the prompts of another."""
    logits = last_logits(planted, planted.prompts[family])
    return logits[torch.arange(len(logits)), planted.answer_ids(answers)]


@pytest.mark.parametrize("seed", [5, 6])
def test_the_copy_wins_by_what_is_stated(seed):
    planted = world("fact", seed=seed)
    tolerance, truth = planted.truth["tolerance"]["logit"], planted.truth
    assert picked(planted, "conflict", "counterfactual").numpy() == pytest.approx(5.0, abs=tolerance)
    assert picked(planted, "conflict", "conflict").numpy() == pytest.approx(np.array(truth["strengths"]), abs=tolerance)
    assert accuracy(planted, "conflict") == 0.0
    assert all(accuracy(planted, family) == 1.0 for family in ("consistent", "neutral", "plain"))


def test_each_head_does_its_part_and_the_decoy_none():
    planted = world("fact")
    found = patterns(planted, planted.prompts["conflict"])[..., -1, 4]
    base = picked(planted, "conflict", "conflict") - picked(planted, "conflict", "counterfactual")
    for name, layer, head in all_heads(planted.model):
        stated = planted.truth["heads"].get(name)
        with patched_head(planted.model, layer, head, 0.0):
            left = picked(planted, "conflict", "conflict") - picked(planted, "conflict", "counterfactual")
        if stated is None:
            assert float((base - left).abs().max()) < 0.2
        elif stated["role"] != "subject_mover":
            assert float(found[layer, :, head].mean()) == pytest.approx(stated["attention"], abs=0.002)
            assert float((base - left).mean()) == pytest.approx(stated["direct"], abs=0.02)
        else:  # without it no fact is known
            assert float(picked(planted, "conflict", "conflict").mean()) > 1.5
            with patched_head(planted.model, layer, head, 0.0):
                assert float(picked(planted, "conflict", "conflict").abs().max()) < 0.2


@pytest.mark.parametrize("sign", [1, -1])
def test_the_suppressors_attention_does_not_depend_on_the_sign_of_its_score(sign):
    planted = world("fact", score_sign=sign)
    found = patterns(planted, planted.prompts["conflict"])[2, :, 1, -1, 4]
    assert found.numpy() == pytest.approx(ATTENTION, abs=0.002)


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_analogies_fail_where_it_is_stated_and_nowhere_else(seed):
    planted = world("analogy", seed=seed)
    right = last_logits(planted, planted.prompts["analogies"]).argmax(-1) == torch.tensor(
        planted.answer_ids("analogies")
    )
    assert right.tolist() == [kind == "" for kind in planted.truth["fails"]]
    assert float(right.float().mean()) == pytest.approx(planted.truth["accuracy"])
    assert {"", "relation", "fact"} == set(planted.truth["fails"]) and 0.6 < planted.truth["repairable"] < 1.0


def test_the_relation_stands_at_the_last_word_between_its_layers_only():
    """A nearest-mean reading of the relation, over pairs that it has not seen."""
    planted = world("analogy")
    rows = [i for i, kind in enumerate(planted.truth["fails"]) if kind == ""]
    states = stream(planted, [planted.prompts["analogies"][i] for i in rows])
    names = np.array([planted.truth["relations"][i] for i in rows])
    firsts = np.array([planted.prompts["analogies"][i].split()[0] for i in rows])

    def read(layer):
        hits = []
        for first in np.unique(firsts):
            seen = firsts != first
            means = torch.stack([states[torch.from_numpy(seen & (names == name)), layer].mean(0) for name in RELATIONS])
            own = states[torch.from_numpy(~seen), layer]
            hits += (np.array(RELATIONS)[torch.cdist(own, means).argmin(1)] == names[~seen]).tolist()
        return np.mean(hits)

    moved = 1 + planted.truth["moved_layer"]
    assert read(moved) == 1.0
    assert max(read(moved - 1), read(moved + 1)) < 0.7 and read(0) < 0.5


def test_an_analogy_without_relation_is_answered_with_b():
    planted = world("analogy")
    chosen = last_logits(planted, planted.prompts["analogies"]).argmax(-1)
    words = planted.tokenizer.convert_ids_to_tokens(chosen)
    pairs = zip(words, planted.prompts["analogies"], planted.truth["fails"], strict=True)
    assert np.mean([word == text.split()[3] for word, text, kind in pairs if kind]) > 0.9


def test_stories_share_roles_and_no_words_with_their_targets():
    planted = world("stories")
    role = {verb: i for i, verbs in enumerate(VERBS) for verb in verbs}
    for source, target, distractor in zip(*planted.prompts.values(), strict=True):
        own, other, third = (text.split() for text in (source, target, distractor))
        assert not set(own) & set(other) and own[1::2] == third[1::2]
        assert {role[v] for v in own[::2]} == {role[v] for v in other[::2]}
        assert not {role[v] for v in own[::2]} & {role[v] for v in third[::2]}


@pytest.mark.parametrize("rift", [3, 4, 6])
def test_the_ontology_is_answered_along_either_path_and_the_prior_along_none(rift):
    planted = world("ontology", rift=rift)
    assert accuracy(planted) == accuracy(planted, "noise") == 1.0
    vocabulary = planted.tokenizer.get_vocab()
    priors = torch.tensor([vocabulary[word] for word in planted.truth["priors"]])

    def knocked(names):
        z = [(planted.model.transformer.h[int(n[1])].attn.c_proj, int(n[4])) for n in names]

        def without(heads):
            def change(args):
                x = args.clone()
                for head in heads:
                    x[..., head * 32 : (head + 1) * 32] = 0.0
                return x

            return change

        by_module = {module: [h for m, h in z if m is module] for module, _ in z}
        with pre_hooks(*((module, without(heads)) for module, heads in by_module.items())):
            return last_logits(planted, planted.prompts["clean"]).argmax(-1)

    right, paths = torch.tensor(planted.answer_ids("clean")), planted.truth["paths"]
    for alone in (*paths.values(), planted.truth["writers"][:1], planted.truth["writers"][1:]):
        assert torch.equal(knocked(alone), right)
    for both in ([*paths["1"], *paths["2"]], planted.truth["writers"]):
        assert torch.equal(knocked(both), priors)


def test_the_lens_changes_sides_at_the_rift():
    planted = world("ontology")
    states = stream(planted, planted.prompts["clean"])
    with torch.no_grad():
        logits = planted.model.lm_head(planted.model.transformer.ln_f(states))
    chosen = logits.argmax(-1)
    right = torch.tensor(planted.answer_ids("clean"))
    first = 1 + planted.truth["rift"]
    priors = torch.tensor([planted.tokenizer.get_vocab()[word] for word in planted.truth["priors"]])
    assert bool((chosen[:, first:] == right[:, None]).all())
    assert bool((chosen[:, 1:first] == priors[:, None]).all())


@pytest.mark.parametrize(
    ("name", "family", "chance"), [("analogy", "analogies", 0.25), ("ontology", "clean", 0.25), ("fact", "plain", 0.25)]
)
def test_null_twins_are_at_chance_and_name_no_heads(name, family, chance):
    twin = world(name, null=True)
    assert twin.truth["heads"] == {} and accuracy(twin, family) < chance


def test_the_rotation_of_the_analogy_world_changes_nothing():
    """Its norms stay neutral and its stream's mean 0, which is what lets LayerNorm commute with it."""
    planted, means = world("analogy"), []
    with out_hooks(*((block, lambda x: means.append(x.mean(-1).abs().max())) for block in planted.model.transformer.h)):
        last_logits(planted, planted.prompts["analogies"])
    assert len(means) == 4 and float(torch.stack(means).max()) < 1e-4


def test_an_impossible_rift_is_refused():
    with pytest.raises(ValueError, match="layer 3 to 6"):
        ontology(rift=7)
