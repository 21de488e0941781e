"""Logit, component and tuned lenses: the ends are right on real types, the planted layer is found, controls stay at chance."""

import copy
from functools import cache

import numpy as np
import pytest
import torch

from conceptlab.errors import InputError, ResultError, SiteError
from conceptlab.measure.lenses.attention_lens import attention_lens
from conceptlab.measure.lenses.component_lens import component_lens
from conceptlab.measure.lenses.lens_causality import lens_causality
from conceptlab.measure.lenses.logit_lens import logit_lens
from conceptlab.measure.lenses.set_lens import set_lens
from conceptlab.measure.lenses.translators import TunedLens, TunedLensFitter, unembedding_hash
from conceptlab.measure.lenses.tuned_lens import fit_tuned_lens, tuned_lens
from conceptlab.model import load_model
from conceptlab.numerics.token_ranks import ranks
from conceptlab.results import Provenance, Scores
from conceptlab.worlds.default import default_concepts, default_model_path
from conceptlab.worlds.induction import induction
from conceptlab.worlds.ioi import ioi
from conceptlab.worlds.one_to_many import one_to_many
from tests.model.tiny import TEXTS, decoder

KINDS = ("gpt2", "llama", "gemma2", "gpt_neox", "olmo2", "cohere", "mixtral", "opt", "bloom")


@cache
def world_model(make=induction, null: bool = False):
    world = make(null=null)
    return world, load_model(world.model, tokenizer=world.tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_is_the_model_and_a_tied_embedding_says_its_input(kind):
    model = decoder(kind)
    found = logit_lens(model, TEXTS, positions="all", k=3, n_random=10)
    logits = model.logits(TEXTS, positions="all")
    top = logits.log_softmax(-1).topk(3)
    np.testing.assert_array_equal(found["top_id"].values[-1], top.indices.numpy())
    np.testing.assert_allclose(found["top_prob"].values[-1], top.values.exp().numpy(), atol=1e-5)
    assert found["kl_final"].values[-1].max() == 0 and (found["kl_final"].values[:-1] > 0).any()
    assert (found["rank"].values[-1] == 1).all() and (found["commit"].values <= model.n_layers).all()
    if model.module.config.tie_word_embeddings:
        assert found["input_rank"].values[0].mean() < 2


def test_every_layer_is_the_lens_of_its_stream():
    model = decoder("gemma2")
    found = logit_lens(model, TEXTS, [[20, 30]] * 3, n_random=10)
    stream = model.capture(TEXTS, "resid_post", layers=[0])["resid_post"][:, 0]
    want = model.lens(stream).log_softmax(-1).detach()
    np.testing.assert_allclose(found["target_logprob"].values[1], want[:, [20, 30]].numpy(), atol=1e-5)
    np.testing.assert_allclose(found["entropy"].values[1], -(want.exp() * want).sum(-1).numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["target_rank"].values[1], ranks(want, torch.tensor([[20, 30]] * 3)).numpy())


def test_pieces_do_not_change_a_number():
    model = decoder()
    one = logit_lens(model, TEXTS, positions="all", n_random=10)
    two = logit_lens(model, TEXTS, positions="all", n_random=10, budget_bytes=1)
    for name in one.data.data_vars:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(one[name].values, two[name].values, atol=1e-5)


def test_the_answer_comes_up_after_the_induction_head_and_not_before():
    world, model = world_model()
    found = logit_lens(model, world.prompts["clean"], world.answer_ids("clean"))
    rank = found["rank"].sel(target="target")
    assert float(rank.sel(layer="embed")) > 4 and float(rank.sel(layer="0")) > 4 and float(rank.sel(layer="1")) == 1
    assert found["q"].values[:, 0].tolist()[:2] > [0.05, 0.05] and found["q"].values[2, 0] <= 0.05
    assert (found["commit"].values == 2).mean() > 0.9
    assert float(found["rank_control"].sel(layer="1").squeeze()) > 5


def test_shuffled_rows_of_the_unembedding_leave_half_the_vocabulary():
    world, _ = world_model()
    shuffled = copy.deepcopy(world.model)
    order = torch.randperm(shuffled.lm_head.weight.shape[0], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        shuffled.lm_head.weight.copy_(shuffled.lm_head.weight[order])
    model = load_model(shuffled, tokenizer=world.tokenizer)
    found = logit_lens(model, world.prompts["clean"], world.answer_ids("clean"))
    assert float(found["rank"].sel(layer="1").squeeze()) == pytest.approx((15 + 1) / 2, abs=1.5)
    assert (found["q"].values > 0.05).all()


def test_a_null_twin_says_nothing():
    world, model = world_model(induction, True)
    assert (logit_lens(model, world.prompts["clean"], world.answer_ids("clean"))["q"].values > 0.05).all()


def test_the_component_lens_names_the_movers():
    world, model = world_model(ioi)
    right, wrong = world.answer_ids("clean"), world.answer_ids("swapped")
    found = component_lens(
        model, world.prompts["clean"], list(zip(right, wrong, strict=True)), target_names=["IO", "S"]
    )
    strong = {(str(c), str(t)) for c in found["component"].values for t in ("IO", "S")
              if float(found["q"].sel(component=c, target=t)) <= 0.05
              and abs(float(found["score"].sel(component=c, target=t))) > 0.1}  # fmt: skip
    assert strong == {("L2.H0", "IO"), ("L2.H1", "IO")}
    assert float(found["rank"].sel(component="L2.H0", target="IO")) == 1
    assert float(found["rank"].sel(component="L2.H1", target="IO")) == found.data.attrs.get("last", 20)
    told = found["top_text"].sel(component="L2.H0").values[:, 0]
    assert [str(t) for t in told] == list(world.answers["clean"])
    total = found["each"].sum("component").values
    logits = model.logits(world.prompts["clean"])
    centred = logits - logits.mean(-1, keepdim=True)
    np.testing.assert_allclose(total[:, 0], centred[range(64), right].numpy(), atol=1e-3)


@cache
def rotated():
    """A final stream, a turned and moved copy of it, and one that knows nothing of it."""
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.randn(50, 32, generator=generator)
    final = torch.randn(4096, 32, generator=generator)
    turned = final @ torch.linalg.qr(torch.randn(32, 32, generator=generator))[0] + torch.randn(32, generator=generator)
    return unembedding, final, torch.stack([turned, torch.randn(4096, 32, generator=generator)], 1)


def test_a_translator_undoes_a_rotation_and_learns_nothing_from_noise():
    unembedding, final, streams = rotated()
    fitter = TunedLensFitter(lambda x: x @ unembedding.T, 2, 32, n_steps=600, lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    lost = [fitter.update(streams[i], final[i]) for i in torch.randint(0, 3072, (600, 256), generator=generator)]
    assert float(lost[0][0]) > 10  # the plain lens
    lens = fitter.result(("turned", "noise"), "", Provenance("test", 1, 0))
    logp = (final[3072:] @ unembedding.T).log_softmax(-1)

    def divergence(x):
        return float((logp.exp() * (logp - (x @ unembedding.T).log_softmax(-1))).sum(-1).mean())

    unigram = float((logp.exp() * (logp - logp.exp().mean(0).log())).sum(-1).mean())
    assert divergence(lens.translate(0, streams[3072:, 0])) < 0.1
    assert divergence(lens.translate(1, streams[3072:, 1])) >= unigram


def test_the_fitter_refuses_what_does_not_fit():
    with pytest.raises(InputError, match="adam or sgd"):
        TunedLensFitter(lambda x: x, 1, 4, n_steps=1, optimiser="none")
    fitter = TunedLensFitter(lambda x: x, 1, 4, n_steps=1, optimiser="sgd")
    with pytest.raises(InputError, match="do not fit"):
        fitter.update(torch.zeros(3, 2, 4), torch.zeros(3, 4))
    fitter.update(torch.zeros(3, 1, 4), torch.zeros(3, 4))
    with pytest.raises(InputError, match="set up for 1 steps"):
        fitter.update(torch.zeros(3, 1, 4), torch.zeros(3, 4))


@cache
def tuned():
    model = load_model(str(default_model_path()))
    texts = list(dict.fromkeys(text for concept in default_concepts() for text in concept.texts))[:90]
    return tuned_lens(model, texts[:80], texts[80:], n_steps=12, rows_per_step=8)


def test_a_tuned_lens_lies_below_the_plain_one_and_its_shuffled_fit():
    found = tuned()
    score, plain, control = (found[c].values for c in ("score", "logit_lens", "control"))
    assert (score < plain).all() and (score < 0.7 * control).all() and (found["q"].values <= 0.05).all()
    assert float(found["agree"].mean()) > float(found["agree_control"].mean()) + 0.05


def test_a_lens_saves_loads_and_refuses_another_unembedding(tmp_path):
    model = decoder("llama")
    lens = fit_tuned_lens(model, TEXTS, n_steps=3)
    lens.save(tmp_path)
    again = TunedLens.load(tmp_path, model)
    x = torch.randn(4, model.d_model)
    assert torch.equal(again.translate(1, x), lens.translate(1, x)) and again.labels == ("embed", "0")
    assert again.unembedding == unembedding_hash(model)
    with pytest.raises(ResultError, match="another unembedding"):
        TunedLens.load(tmp_path, decoder("mixtral"))


def test_an_unfitted_translator_is_the_plain_lens():
    model = decoder("gpt2")
    fitter = TunedLensFitter(model.lens, model.n_layers, model.d_model, n_steps=1)
    lens = fitter.result(("embed", "0"), unembedding_hash(model), Provenance("test", 1, 0))
    plain, same = logit_lens(model, TEXTS, n_random=5), logit_lens(model, TEXTS, n_random=5, translator=lens)
    np.testing.assert_allclose(plain["kl_final"].values, same["kl_final"].values, atol=1e-6)
    assert same.provenance.method == "tuned lens"


def test_weights_and_hooks_are_as_they_were():
    model = decoder("gpt2")
    before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    fit_tuned_lens(model, TEXTS, n_steps=2)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in model.module.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.module.modules())


@pytest.mark.parametrize("targets", [[20, 30], [20, 30, 9999], [[[1]]] * 3])
def test_targets_that_do_not_fit_are_told(targets):
    with pytest.raises(InputError):
        logit_lens(decoder(), TEXTS, targets)


def test_a_model_without_a_lens_is_a_named_error():
    with pytest.raises(SiteError, match="no lens"):
        logit_lens(decoder("bert"), TEXTS)


def test_results_load_equal(tmp_path):
    for name, found in (
        ("lens", logit_lens(decoder(), TEXTS)),
        ("parts", component_lens(decoder(), TEXTS, [[20], [30], [40]])),
    ):
        found.save(tmp_path / name)
        assert Scores.load(tmp_path / name).data.equals(found.data)


def test_a_set_of_words_comes_up_where_its_word_does():
    world, model = world_model()
    vocabulary = world.tokenizer.get_vocab()
    answers = world.answers["clean"]
    rows = [i for i, a in enumerate(answers) if a in ("ant", "bee", "cat")]
    texts = [world.prompts["clean"][i] for i in rows]
    sets = {
        "answers": [vocabulary[w] for w in ("ant", "bee", "cat")],
        "others": [vocabulary[w] for w in ("koi", "lynx")],
    }
    words = [i for i in vocabulary.values() if i >= 3]
    found = set_lens(model, texts, sets, pool=words)
    last = found.data.sel(layer="1")
    assert float(last["score"].sel(set="answers")) > 0.99 and float(last["q"].sel(set="answers")) <= 0.05
    assert float(last["score"].sel(set="others")) < 0.02 and float(last["q"].sel(set="others")) > 0.05
    assert (found["q"].sel(layer=["embed", "0"]).values > 0.05).all()
    assert float(last["control"].sel(set="answers")) == pytest.approx(3 / 12, abs=0.06)
    assert found["each"].sum("set").values.max() <= 1 + 1e-5
    with pytest.raises(InputError, match="each once"):
        set_lens(model, texts, {"a": [3, 3]})


def test_an_attention_lens_reads_the_induction_head_and_not_the_idle_one():
    """What an idle head writes is nothing, so its fit can only learn the mean prediction; a uniform head sees the text's words."""
    world, model = world_model()
    texts = world.prompts["clean"]
    found = attention_lens(model, 1, texts[:48], texts[48:], n_steps=60, lr=1e-2)
    score, control = found["score"].values, found["control"].values
    assert score[0] < 0.5 * control[0] and float(found["q"][0]) <= 0.05
    assert abs(score[1] - control[1]) < 0.02 and found["p"].values[1] > 0.05


def test_what_a_lens_reads_is_used_where_the_answers_stand_and_not_before():
    world = one_to_many(n_prompts=24)
    model = load_model(world.model, tokenizer=world.tokenizer)
    texts = world.prompts["step2"]
    found = lens_causality(model, [0, 1], texts)
    before, after = found["score"].values
    assert after > 1.5 * float(found["control_high"][1]) and float(found["q"][1]) <= 0.05
    # after block 0 the answers are still elsewhere: the plain lens looks at the wrong place, a turned one can only do better
    assert before < float(found["control"][0]) and float(found["p"][0]) > 0.9
    turned = torch.linalg.qr(torch.randn(3, 112, 112, generator=torch.Generator().manual_seed(0)))[0] - torch.eye(112)
    blind = TunedLens(turned, torch.zeros(3, 112), ("embed", "0", "1"), "", Provenance("test", 1, 0))
    assert float(lens_causality(model, [1], texts, lens=blind)["p"][0]) > 0.05
    twin = one_to_many(n_prompts=24, null=True)
    silent = lens_causality(load_model(twin.model, tokenizer=twin.tokenizer), [0, 1], texts, n_random=3)
    assert silent["score"].values.max() < 0.001
    with pytest.raises(InputError, match="layers from 0 to 1"):
        lens_causality(model, [2], texts)
